"""Which images, in which order, with which randomness; and bad inputs, each answered by one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.augment import TwoCrops, recipe
from pretrain.data import Batch, TrainingBatches, ViewDataset, build_loader, find_images
from pretrain.decode import decode
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
    assert [listed.path(0), listed.path(1)] == [flat_path(tmp_path, 4), str(tmp_path / "nested/class1/001.jpg")]


def flat_path(folder: Path, i: int) -> str:
    return str(folder / "flat" / f"{i:03d}.jpg")


def test_digest_depends_on_names_not_on_place(tmp_path: Path) -> None:
    a, b = (find_images(write_images(tmp_path / x, 4)) for x in "ab")
    assert a.digest() == b.digest() != find_images(write_images(tmp_path / "c", 5)).digest()


def test_bad_sources_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "wrong.txt").write_text("no/such.jpg\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "data.csv").write_text("a")
    for name in ("train", "val"):
        write_images(tmp_path / "imagenet" / name, 1)
    for source, message in {
        "missing": "does not exist; give a folder",
        "empty": "holds no image",
        "empty.txt": "lists no image; write one path per line",
        "wrong.txt": f"first entry means '{tmp_path}/no/such.jpg', which does not exist",
        "binary.txt": "cannot be read",
        "data.csv": "neither a folder nor a .txt list",
        "imagenet": f"holds train and val; give '{tmp_path}/imagenet/train'",
    }.items():
        with pytest.raises(ConfigError) as caught:
            find_images(tmp_path / source)
        assert message in str(caught.value) and str(tmp_path / source) in str(caught.value)


def test_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(root: Path, onerror: Callable[[OSError], None], followlinks: bool) -> None:
        onerror(PermissionError(13, "Permission denied", str(root)))

    monkeypatch.setattr("os.walk", walk)
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
