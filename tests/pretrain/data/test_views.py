"""Which images, in which order, with which randomness; and bad inputs, each answered by one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.augment import TwoCrops, recipe
from pretrain.data.decode import decode
from pretrain.data.images import find_images
from pretrain.data.views import Batch, TrainingBatches, ViewDataset, build_loader
from pretrain.runtime.config import ConfigError
from tests.pretrain.conftest import write_images

VIEWS = TwoCrops(recipe("v2", crop_size=16))


def test_folder_with_and_without_subfolders_and_list(tmp_path: Path) -> None:
    flat = find_images(write_images(tmp_path / "flat", 5, subfolders=0))
    nested = find_images(write_images(tmp_path / "nested", 5, subfolders=2))
    assert [Path(flat.path(i)).name for i in range(len(flat))] == [f"{i:03d}.jpg" for i in range(5)]
    assert [Path(nested.path(i)).name for i in range(len(nested))] == [f"{i:03d}.jpg" for i in (0, 2, 4, 1, 3)]
    (tmp_path / "list.txt").write_text(f"flat/004.jpg\n\n{tmp_path}/nested/class1/001.jpg\n")
    listed = find_images(tmp_path / "list.txt")
    (tmp_path / "marked.TXT").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "list.txt").read_bytes())
    assert find_images(tmp_path / "marked.TXT").digest() == listed.digest()
    (tmp_path / "latin.txt").write_bytes("caf\u00e9.jpg".encode("latin1"))
    with pytest.raises(ConfigError, match="it is no UTF-8 .*; save it as UTF-8"):
        find_images(tmp_path / "latin.txt")
    assert [listed.path(0), listed.path(1)] == [flat_path(tmp_path, 4), str(tmp_path / "nested/class1/001.jpg")]


def flat_path(folder: Path, i: int) -> str:
    return str(folder / "flat" / f"{i:03d}.jpg")


def test_digest_depends_on_names_not_on_place(tmp_path: Path) -> None:
    a, b = (find_images(write_images(tmp_path / x, 4)) for x in "ab")
    assert a.digest() == b.digest() != find_images(write_images(tmp_path / "c", 5)).digest()


def test_hidden_files_and_loops_are_left_out(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", 6)
    before = find_images(root)
    write_images(root / ".ipynb_checkpoints", 1)
    (root / "latest").symlink_to(".")
    after = find_images(root)
    assert (len(after), after.digest()) == (6, before.digest())
    assert before.notes == () and [note.partition("', ")[2] for note in after.notes] == [
        "hidden: 1 (.ipynb_checkpoints)",
        "linked folders that are read already: 1 (latest)",
    ]
    write_images(tmp_path / "only" / ".hidden", 1)
    with pytest.raises(ConfigError, match="holds no image .* hidden: 1 .*hidden"):
        find_images(tmp_path / "only")


def test_what_is_hidden_in_a_list(tmp_path: Path) -> None:
    """As `find` writes it; where all lie in a hidden folder, that is where the set lies."""
    write_images(tmp_path / ".cache", 3, subfolders=0)
    (tmp_path / "all.txt").write_text("".join(f"{tmp_path}/.cache/{i:03d}.jpg\n" for i in range(3)))
    assert len(find_images(tmp_path / "all.txt")) == 3
    write_images(tmp_path / "set", 3, subfolders=0)
    (tmp_path / "found.txt").write_text("./set/000.jpg\n./.cache/000.jpg\n./set/._001.jpg\n./set/001.jpg\n")
    found = find_images(tmp_path / "found.txt")
    assert len(found) == 2 and "hidden: 2 (./.cache/000.jpg, ./set/._001.jpg)" in found.notes[0]


def test_bad_sources_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "wrong.txt").write_text("no/such.jpg\n")
    (tmp_path / "hidden.txt").write_text("a/.b.jpg\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "data.csv").write_text("a")
    for name in ("train", "val"):
        write_images(tmp_path / "imagenet" / name, 1)
    for source, message in {
        "missing": "does not exist; give a folder",
        "empty": "holds no image",
        "empty.txt": "lists no image; write one path per line",
        "wrong.txt": f"first entry means '{tmp_path}/no/such.jpg', which does not exist",
        "hidden.txt": "lists nothing but hidden files, such as 'a/.b.jpg'",
        "binary.txt": "cannot be read",
        "data.csv": "neither a folder nor a .txt list",
        "imagenet": f"holds train and val; give '{tmp_path}/imagenet/train'",
    }.items():
        with pytest.raises(ConfigError) as caught:
            find_images(tmp_path / source)
        assert message in str(caught.value) and str(tmp_path / source) in str(caught.value)


def test_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(ConfigError, match="cannot be read: .*Permission denied"):
        find_images(tmp_path)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    Image.new("L", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    image = decode((tmp_path / "a.jpg").read_bytes(), "a.jpg")
    assert image.size == (20, 10) and image.mode == "RGB"


def test_sample_is_a_function_of_seed_epoch_index(images: Path) -> None:
    dataset = ViewDataset(find_images(images), VIEWS, seed=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = dataset[(0, 3)].views
    assert torch.equal(torch.get_rng_state(), before)  # the global stream does not move
    torch.manual_seed(5)
    assert first is not None
    for a, b in zip(first, dataset[(0, 3)].views or (), strict=True):
        assert torch.equal(a, b)
    for other in (dataset[(1, 3)], ViewDataset(find_images(images), VIEWS, seed=2)[(0, 3)]):
        assert other.views is not None and not torch.equal(first[0], other.views[0])


def load(images: Path, num_workers: int, start: int = 0, **kwargs: int) -> list[Batch]:
    files = find_images(images)
    batches = TrainingBatches(len(files), 32, epochs=2, seed=0, start=start, **kwargs)
    return list(build_loader(ViewDataset(files, VIEWS, seed=0), batches, num_workers, pin_memory=False))


def test_workers_and_resume_do_not_change_the_stream(images: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole, parallel, resumed = load(images, 0), load(images, 2), load(images, 0, start=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(whole) == len(parallel) == 4 and len(resumed) == 1
    for a, b in [*zip(whole, parallel, strict=True), (whole[3], resumed[0])]:
        assert a.numbers is not None and b.numbers is not None and torch.equal(a.numbers, b.numbers)
        assert a.views is not None and b.views is not None
        assert torch.equal(a.views[0], b.views[0]) and torch.equal(a.views[1], b.views[1])


def test_every_epoch_is_another_permutation_without_repetition() -> None:
    pairs = [pair for batch in TrainingBatches(103, 10, epochs=3, seed=4) for pair in batch]
    epochs = [[index for epoch, index in pairs if epoch == e] for e in range(3)]
    assert all(len(e) == len(set(e)) == 100 and set(e) <= set(range(103)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    other = [pair for batch in TrainingBatches(103, 10, epochs=3, seed=5) for pair in batch]
    assert pairs != other


@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 29, 30])
def test_batches_go_on_where_they_stopped(start: int) -> None:
    whole = list(TrainingBatches(103, 10, epochs=3, seed=4))
    resumed = TrainingBatches(103, 10, epochs=3, seed=4, start=start)
    assert list(resumed) == whole[start:] and len(resumed) == len(whole) - start


def test_length_in_iterations_may_end_within_an_epoch() -> None:
    whole = list(TrainingBatches(103, 10, epochs=3, seed=4))
    cut = TrainingBatches(103, 10, epochs=0, seed=4, start=4, iterations=17)
    assert list(cut) == whole[4:17] and len(cut) == 13


def test_processes_share_each_batch_in_rank_order() -> None:
    whole = list(TrainingBatches(50, 12, epochs=2, seed=4))
    parts = [list(TrainingBatches(50, 12, epochs=2, seed=4, rank=r, world_size=3)) for r in range(3)]
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == whole


def test_too_few_images_for_one_batch() -> None:
    with pytest.raises(ConfigError, match="has 7 images, fewer than one batch of SOLVER.BATCH_SIZE 8"):
        TrainingBatches(7, 8, epochs=1, seed=0)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Six images, of which 002 is cut short and 004 is text."""
    folder = write_images(tmp_path / "broken", 6, subfolders=0)
    whole = (folder / "002.jpg").read_bytes()
    (folder / "002.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "004.jpg").write_text("not an image")
    return folder


def test_bad_image_is_named(broken: Path) -> None:
    sample = ViewDataset(find_images(broken), VIEWS, seed=0)[(0, 2)]
    assert sample.views is None and len(sample.bad) == 1 and str(broken / "002.jpg") in sample.bad[0]


def test_bad_image_is_replaced_by_the_same_other_one_each_time(broken: Path) -> None:
    dataset = ViewDataset(find_images(broken), VIEWS, seed=0, replacements=10)
    samples = [dataset[(0, 4)] for _ in range(2)]
    for sample in samples:
        assert sample.views is not None and str(broken / "004.jpg") in sample.bad[0]
        assert sample.number not in (2, 4)  # the memory bank has to know whose views these are
    assert samples[0].views is not None and samples[1].views is not None
    assert torch.equal(samples[0].views[0], samples[1].views[0])


def test_only_bad_images_are_given_up_on(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(np.random.default_rng(i).bytes(50))
    sample = ViewDataset(find_images(tmp_path), VIEWS, seed=0, replacements=4)[(0, 0)]
    assert sample.views is None and len(sample.bad) == 5


def gray16(dtype: str = "<u2") -> np.ndarray:
    """4 x 4 values from 0 to 65535."""
    return np.linspace(0, 65535, 16).round().astype(dtype).reshape(4, 4)


def encoded(image: Image.Image, suffix: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix.upper()), **options)
    return file.getvalue()


def frames(suffix: str) -> bytes:
    """An animation of a red and a blue image."""
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    return encoded(red, suffix, save_all=True, append_images=[blue], duration=50, lossless=True)


GRAY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
RED = np.tile(np.array([255, 0, 0], dtype=np.uint8), (4, 4, 1))
PALETTE = Image.fromarray(GRAY).convert("P")
PALETTE.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
BY_PALETTE = np.stack([np.asarray(PALETTE), 255 - np.asarray(PALETTE), np.full((4, 4), 7)], 2)
ALPHA = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 17)


def with_alpha(mode: str, *bands: Image.Image) -> Image.Image:
    return Image.merge(mode, (*bands, ALPHA))


UNUSUAL: dict[str, tuple[str, bytes, np.ndarray]] = {
    "16 bits": ("png", encoded(Image.fromarray(gray16()), "png"), gray16() >> 8),
    "16 bits in a TIFF": ("tif", encoded(Image.fromarray(gray16()), "tif"), gray16() >> 8),
    "16 bits, the other end first": (
        "tif",
        b"MM\0*\0\0\0\x08\0\x08"  # ImageWidth, ImageLength, BitsPerSample, Compression, Photometric, ...
        + b"".join(
            struct.pack(">HHII", tag, 4, 1, value)
            for tag, value in [(256, 4), (257, 4), (258, 16), (259, 1), (262, 1), (273, 110), (278, 4), (279, 32)]
        )
        + bytes(4)
        + gray16(">u2").tobytes(),
        gray16() >> 8,
    ),
    "16 bits in a PGM": ("pgm", b"P5 4 4 65535\n" + gray16(">u2").tobytes(), gray16() >> 8),
    "grey with alpha": ("png", encoded(with_alpha("LA", Image.fromarray(GRAY)), "png"), GRAY),
    "colour with alpha": (
        "png",
        encoded(with_alpha("RGBA", *Image.fromarray(RED).split()), "png"),
        RED,
    ),
    "palette": ("png", encoded(PALETTE, "png"), BY_PALETTE),
    "palette with a transparent colour": ("png", encoded(PALETTE, "png", transparency=3), BY_PALETTE),
    "palette with alpha": ("png", encoded(PALETTE, "png", transparency=bytes(range(256))), BY_PALETTE),
    "1 bit": ("png", encoded(Image.fromarray(GRAY > 100), "png"), (GRAY > 100) * 255),
    "animated PNG": ("png", frames("png"), RED),
    "animated WebP": ("webp", frames("webp"), RED),
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.filterwarnings("error")
def test_unusual_images(name: str, tmp_path: Path) -> None:
    suffix, data, expected = UNUSUAL[name]
    (tmp_path / f"a.{suffix}").write_bytes(data)
    dataset = ViewDataset(find_images(tmp_path), lambda image, seed: (torch.from_numpy(np.array(image)),), seed=0)
    (pixels,) = dataset[(0, 0)].views or ()
    assert pixels.dtype == torch.uint8 and pixels.shape == (4, 4, 3)
    np.testing.assert_array_equal(pixels.numpy(), expected if expected.ndim == 3 else np.stack([expected] * 3, 2))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    dataset = ViewDataset(find_images(tmp_path), lambda image, seed: (torch.from_numpy(np.array(image)),), seed=0)
    (pixels,) = dataset[(0, 0)].views or ()
    assert pixels.shape == (8, 8, 3) and (pixels.int() - torch.tensor([255, 0, 0])).abs().max() <= 3


def test_one_pixel_is_enough(tmp_path: Path) -> None:
    for i, suffix in enumerate(("png", "jpg")):
        Image.new("RGB", (1, 1), (10, 100, 200)).save(tmp_path / f"{i}.{suffix}")
    for i in range(2):
        views = ViewDataset(find_images(tmp_path), VIEWS, seed=0)[(0, i)].views
        assert views is not None and all(v.shape == (3, 16, 16) and v.isfinite().all() for v in views)


def test_hopeless_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "floats.tif")
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)  # 3.6 gigapixels in a few bytes
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    Image.new("L", (4, 4)).save(tmp_path / "z.png")
    (tmp_path / "list.txt").write_text("z.png\ndir.jpg\nempty.png\nfloats.tif\nhuge.png\ngone.png\n")
    (tmp_path / "dir.jpg").mkdir()
    assert len(find_images(tmp_path)) == 4  # the folder is none of them
    dataset = ViewDataset(find_images(tmp_path / "list.txt"), VIEWS, seed=0)
    for number, name, reason in [
        (1, "dir.jpg", "it is a folder"),
        (2, "empty.png", "empty"),
        (3, "floats.tif", "32-bit pixels"),
        (4, "huge.png", "exceeds limit"),
        (5, "gone.png", "No such file"),
    ]:
        sample = dataset[(0, number)]
        (message,) = sample.bad
        assert sample.views is None and message.startswith(f"cannot read image '{tmp_path / name}' (")
        assert reason in message and "\n" not in message
    (tmp_path / "list.txt").write_text("dir.jpg\n")
    with pytest.raises(ConfigError, match=f"first entry means '{tmp_path}/dir.jpg', which is no file"):
        find_images(tmp_path / "list.txt")


def test_names_need_not_be_text(tmp_path: Path) -> None:
    try:
        for name in (b"\xff\xfe.jpg", b"\xe9t\xe9.jpg"):
            (tmp_path / os.fsdecode(name)).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    good = write_images(tmp_path / "good", 1, subfolders=0) / "000.jpg"
    (tmp_path / os.fsdecode(b"\xe9t\xe9.jpg")).write_bytes(good.read_bytes())
    dataset = ViewDataset(find_images(tmp_path), VIEWS, seed=0)
    samples = {Path(dataset.files.name(i)).name: dataset[(0, i)] for i in range(3)}
    assert samples["\\xe9t\\xe9.jpg"].views is not None
    (message,) = samples["\\xff\\xfe.jpg"].bad
    assert message.startswith(f"cannot read image '{tmp_path}/\\xff\\xfe.jpg'")
    assert message.encode("utf-8")  # fit for log, result and screen
