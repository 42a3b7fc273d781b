"""A set kept decoded gives the batches that it gives without, bit for bit; and what does not fit is refused first."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.build import build_batches, build_dataset, description
from pretrain.config import check
from pretrain.data import cache as module
from pretrain.data.cache import GB, DecodedImages
from pretrain.data.decode import BadImageError, decode, decode_array
from pretrain.data.images import Images, find_images
from pretrain.data.views import Batch, build_loader
from pretrain.mechanisms import MECHANISMS
from pretrain.run import main
from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import RunResult
from tests.pretrain.conftest import MakeCfg, write_images
from tests.pretrain.data.test_shards import write_shards


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of all sizes and kinds: JPEGs, grey and of CMYK too, PNGs with palettes, alpha, 16 bits and 1 pixel."""
    folder = write_images(tmp_path_factory.mktemp("mixed"), 12, subfolders=2)
    rng = np.random.default_rng(1)
    for i in range(12):
        height, width = rng.integers(1, 90, 2) if i else (1, 1)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        mode, suffix = [("RGB", "png"), ("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "webp")][i % 5]
        image.convert(mode).save(folder / f"class{i % 2}" / f"m{i:02d}.{suffix}")
    deep = np.linspace(0, 65535, 80 * 70).astype(np.uint16).reshape(80, 70)
    Image.fromarray(deep).save(folder / "class0" / "m00.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned, which nobody applies
    Image.open(folder / "class0" / "000.jpg").save(folder / "class0" / "000.jpg", exif=exif)
    return folder


def batches_of(cfg: CfgNode, files: Images, num_workers: int = 0, start: int = 0) -> list[Batch]:
    dataset = build_dataset(cfg, files)
    return list(build_loader(dataset, build_batches(cfg, files, start), num_workers, pin_memory=False))


def equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    for a, b in zip(ours, theirs, strict=True):
        assert a.views is not None and b.views is not None and a.numbers is not None and b.numbers is not None
        if a.bad != b.bad or not torch.equal(a.numbers, b.numbers) or len(a.views) != len(b.views):
            return False
        if not all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True)):
            return False
        if a.labels is not b.labels and not torch.equal(a.labels, b.labels):  # type: ignore[arg-type]
            return False
    return len(ours) > 0


@pytest.mark.parametrize("mechanism", ["moco", "memory_bank", "supervised"])
@pytest.mark.parametrize("backend", ["opencv", "pil"])
def test_batches_are_equal_to_the_last_bit(backend: str, mechanism: str, mixed: Path, make_cfg: MakeCfg) -> None:
    opts = ("AUG.BACKEND", backend, "MODEL.MECHANISM", mechanism, "MODEL.SHUFFLE_BN", mechanism == "moco")
    cfg, cached = (make_cfg(mixed, Path("unused"), *opts, "DATA.CACHE", limit) for limit in (0, 1))
    files = MECHANISMS[mechanism].images(cfg)
    plain = batches_of(cfg, files)
    assert equal(batches_of(cached, files), plain) and len(plain) == 6
    assert equal(batches_of(cached, files, num_workers=2), plain)
    assert equal(batches_of(cached, files, start=4), plain[4:])
    assert not equal(batches_of(cached, files)[1:], plain[:-1])


def test_shards_too(images: Path, tmp_path: Path, make_cfg: MakeCfg) -> None:
    pattern = Path(write_shards(images, tmp_path, per_shard=7))
    cfg, cached = (make_cfg(pattern, tmp_path / "run", "DATA.CACHE", limit) for limit in (0, 1))
    files = MECHANISMS["moco"].images(cfg)
    assert equal(batches_of(cached, files, num_workers=1), batches_of(cfg, files))


def test_a_run_is_the_same_run(finished: tuple[CfgNode, RunResult], images: Path, tmp_path: Path) -> None:
    cfg, result = finished
    cached = cfg.clone()
    cached.defrost()
    cached.merge_from_list(["DATA.CACHE", 1.0, "OUTPUT_DIR", str(tmp_path / "run")])
    again = main(cached)
    assert again.config_digest == result.config_digest  # and a run may go on with or without
    for name in ("loss", "acc1"):
        assert again.metrics[name] == result.metrics[name]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines and "images: decoded once and kept in memory (DATA.CACHE)" in again.notes
    assert not any("DATA.CACHE" in line for line in description(cfg, torch.device("cpu")))


@pytest.mark.parametrize("decoder, wrap", [(decode, Image.fromarray), (decode_array, np.asarray)])
def test_an_image_is_what_the_decoder_gives(decoder, wrap, mixed: Path) -> None:  # type: ignore[no-untyped-def]
    files = find_images(mixed)
    cache = DecodedImages(files, decoder, wrap, 1)
    for index in range(len(files)):
        image, expected = cache[index], decoder(files.read(index), files.name(index))
        assert type(image) is type(expected)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert not np.asarray(cache[0]).flags.writeable or decoder is decode


def test_the_limit_is_looked_at_before_anything_is_decoded(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_images(mixed)
    sizes = [Image.open(io.BytesIO(files.read(i))).size for i in range(len(files))]
    needed = sum(3 * width * height for width, height in sizes)
    assert len(DecodedImages(files, decode_array, np.asarray, needed / GB)._pixels) == needed

    def never(data: bytes, name: str) -> np.ndarray:
        raise AssertionError("decoded")

    with pytest.raises(ConfigError) as caught:
        DecodedImages(files, never, np.asarray, (needed - 1) / GB)
    text = str(caught.value)
    assert f"DATA.CACHE is {(needed - 1) / GB:g} GB, but the 24 images of DATA.TRAIN need about " in text
    assert abs(float(text.split("about ")[1].split()[0]) / (needed / GB) - 1) < 0.2
    monkeypatch.setattr(module, "_memory", lambda: 3 * needed - 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"GB in each of 3 training processes, and this machine has .*DATA.CACHE 0"):
        DecodedImages(files, never, np.asarray, 1)


def test_a_set_far_above_the_limit_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many:
        notes = ()
        reads = 0

        def __len__(self) -> int:
            return 100_000

        def name(self, index: int) -> str:
            return str(index)

        def digest(self) -> str:
            return ""

        def read(self, index: int) -> bytes:
            self.reads += 1
            return b"P6 100 100 255\n"

    files = Many()
    with pytest.raises(ConfigError, match="the 100000 images of DATA.TRAIN need about 3 GB .* set DATA.CACHE 3.3 if"):
        DecodedImages(files, decode, Image.fromarray, 0.003)
    assert files.reads == 101


def test_unreadable_images_are_skipped_as_without_or_named_at_once(tmp_path: Path, make_cfg: MakeCfg) -> None:
    folder = write_images(tmp_path / "set", 16, subfolders=0)
    whole = (folder / "002.jpg").read_bytes()
    (folder / "002.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "004.jpg").write_text("not an image")
    files = find_images(folder)
    cfg, cached = (
        make_cfg(folder, tmp_path / "run", "DATA.ON_BAD_IMAGE", "skip", "DATA.CACHE", limit) for limit in (0, 1)
    )
    plain = batches_of(cfg, files)
    assert equal(batches_of(cached, files), plain) and sum(len(batch.bad) for batch in plain) >= 2
    with pytest.raises(BadImageError, match=r"002.jpg' \(.*\); remove it, or set DATA.ON_BAD_IMAGE skip"):
        build_dataset(make_cfg(folder, tmp_path / "run", "DATA.CACHE", 1), files)


def test_a_header_that_does_not_tell_the_size_is_refused(images: Path) -> None:
    with pytest.raises(ConfigError, match="000.jpg' has 5 x 4 pixels, its header says 40 x 36; remove it, or set"):
        DecodedImages(find_images(images), lambda data, name: np.zeros((4, 5, 3), np.uint8), np.asarray, 1)


@pytest.mark.parametrize("value", [-1, "nan", "yes"])
def test_a_limit_that_is_none(value: object, images: Path, make_cfg: MakeCfg) -> None:
    with pytest.raises(ConfigError, match="DATA.CACHE"):
        check(make_cfg(images, Path("unused"), "DATA.CACHE", value))
