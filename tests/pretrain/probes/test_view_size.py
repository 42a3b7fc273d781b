"""Which size a checkpoint's images have, and what is said when one is asked for that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.build import build_knn
from pretrain.config import check
from pretrain.probes.view_size import cautions, resize_for, shown_share, trained_crop, view_size
from pretrain.runtime import checkpoint
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import RunResult
from tests.pretrain.checkpoints import write
from tests.pretrain.conftest import MakeCfg


def test_the_papers_proportion() -> None:
    assert [resize_for(crop) for crop in (224, 32, 56, 7, 1, 448)] == [256, 37, 64, 8, 1, 512]
    assert all(resize_for(crop) >= crop for crop in range(1, 4097))


def test_a_run_of_ours_says_its_size(finished: tuple[CfgNode, RunResult]) -> None:
    cfg, result = finished
    path = Path(cfg.OUTPUT_DIR) / result.artifacts["checkpoint"]
    size = view_size(path)
    assert size.crop == cfg.AUG.CROP_SIZE == 32 and size.resize == 37
    assert size.why == "the size that the checkpoint was trained at (AUG.CROP_SIZE)"
    assert view_size(path, resize=40)[:2] == (40, 32) and view_size(path, crop=224)[:2] == (256, 224)


@pytest.mark.parametrize("layout", ["module.encoder_q.", ""])
def test_others_have_the_papers(layout: str, tmp_path: Path) -> None:
    size = view_size(write(tmp_path / "weights.pth", layout))
    assert size[:2] == (256, 224) and "does not say" in size.why


@pytest.mark.parametrize(
    "content", [None, [], {}, {"config": "x"}, {"config": {"AUG": None}}, {"config": {"AUG": {"CROP_SIZE": "32"}}}]
)
def test_what_says_nothing(content: object) -> None:
    assert trained_crop(content) is None


def test_a_frozen_trunk_at_another_size_is_said_once(finished: tuple[CfgNode, RunResult], tmp_path: Path) -> None:
    path = Path(finished[0].OUTPUT_DIR) / finished[1].artifacts["checkpoint"]
    (line,) = cautions(path, 224)
    assert "trained at AUG.CROP_SIZE 32 and looks at 224 pixels" in line
    assert line.endswith("AUG.RESIZE 37 (or 0, which follows the crop) are its own")
    assert cautions(path, 32) == cautions(write(tmp_path / "weights.pth"), 32) == []


def test_a_crop_that_shows_little_of_the_image_is_said() -> None:
    (line,) = shown_share(256, 32)
    assert "central crop of 32 pixels shows 12% of the short side of 256" in line and "resize to 37 for" in line
    assert all(shown_share(*sizes) for sizes in ((54, 32), (37, 27)))
    assert not any(shown_share(*sizes) for sizes in ((256, 224), (36, 32), (40, 32), (256, 192), (64, 64)))
    assert not any(shown_share(resize_for(crop), crop) for crop in range(8, 4097))


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth")
    checkpoint.save(checkpoint.load(path) | {"config": {"AUG": {"CROP_SIZE": 96}}}, path)
    with pytest.raises(ConfigError, match=r"resize 64 is below the crop 96 \(the size .*; take at least 96, or 110"):
        view_size(path, resize=64)
    for opts in ({"crop": 0}, {"resize": -3}):
        ((name, value),) = opts.items()
        with pytest.raises(ConfigError, match=f"the {name} is {value}; it must be at least 1"):
            view_size(path, **opts)
    with pytest.raises(CheckpointError, match="does not exist"):
        view_size(tmp_path / "none.pth")


def test_knn_during_a_run_follows_the_crop(images: Path, make_cfg: MakeCfg, caplog: pytest.LogCaptureFixture) -> None:
    knn = ("KNN.PERIOD", 1, "KNN.TRAIN", images, "KNN.VAL", images, "KNN.K", 5)
    for opts, resize in (((), 37), (("KNN.RESIZE", 50), 50), (("AUG.CROP_SIZE", 300), 343)):
        cfg = make_cfg(images, Path("unused"), *knn, *opts)
        check(cfg)
        probe = build_knn(cfg, torch.device("cpu"))
        assert probe is not None and f"Resize(size={resize}," in repr(probe.view)
    caplog.clear()
    build_knn(make_cfg(images, Path("unused"), *knn, "KNN.RESIZE", 256), torch.device("cpu"))
    assert "KNN.RESIZE: the central crop of 32 pixels shows 12%" in caplog.text
    with pytest.raises(ConfigError, match="KNN.RESIZE is 20; the central crop of AUG.CROP_SIZE 32 must fit"):
        check(make_cfg(images, Path("unused"), *knn, "KNN.RESIZE", 20))
