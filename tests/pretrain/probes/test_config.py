"""The configs of probe and fine-tuning say what the papers say, and what cannot work is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.probes.config import check, get_lincls_cfg, load_lincls, with_sizes
from pretrain.runtime.config import ConfigError, merge_file, merge_opts
from pretrain.runtime.provenance import config_digest
from tests.pretrain.conftest import ROOT

CONFIGS = ROOT / "configs" / "pretrain"


def tiny(*opts: object) -> CfgNode:
    cfg = get_lincls_cfg()
    merge_file(cfg, CONFIGS / "lincls_tiny.yaml")
    merge_opts(cfg, ["MODEL.WEIGHTS", "w", "DATA.TRAIN", "t", "DATA.VAL", "v", *map(str, opts)])
    return cfg


def test_the_papers_protocol() -> None:
    cfg = get_lincls_cfg()
    merge_file(cfg, CONFIGS / "lincls_R_50.yaml")
    assert (cfg.MODEL.ARCH, cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.EPOCHS) == ("resnet50", 256, 100)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (30, 0.9, 0)
    assert (tuple(cfg.SOLVER.STEPS), cfg.SOLVER.GAMMA, cfg.SOLVER.AMP) == ((60, 80), 0.1, "off")
    assert (cfg.AUG.TRAIN, cfg.AUG.CROP_SIZE, with_sizes(cfg).AUG.RESIZE) == (True, 224, 256)
    assert tuple(cfg.AUG.SCALE) == (0.08, 1.0)
    cfg.MODEL.ARCH = ""
    assert cfg == get_lincls_cfg()


def test_the_papers_fine_tunings() -> None:
    for name, rate, steps in [("imagenet", 0.03, (30, 60, 90)), ("inaturalist", 0.025, (70, 90))]:
        cfg = load_lincls(CONFIGS / f"finetune_R_50_{name}.yaml", [], "free")
        assert (cfg.MODEL.ARCH, cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.EPOCHS) == ("resnet50", 256, 100)
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (rate, 0.9, 1e-4)
        assert (tuple(cfg.SOLVER.STEPS), cfg.SOLVER.GAMMA) == (steps, 0.1) and tuple(cfg.AUG.SCALE) == (0.08, 1.0)
        assert (cfg.AUG.TRAIN, cfg.AUG.CROP_SIZE, with_sizes(cfg).AUG.RESIZE) == (True, 224, 256)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("lincls_*.yaml")), ids=lambda p: p.stem)
def test_the_resize_follows_the_crop(path: Path) -> None:
    """Changing only the crop keeps the share of the image that validation sees; the digest is that of the number."""
    for crop, resize in ((224, 256), (32, 37)):
        cfg = load_lincls(path, ["AUG.CROP_SIZE", str(crop)], "frozen")
        stated = load_lincls(path, ["AUG.CROP_SIZE", str(crop), "AUG.RESIZE", str(resize)], "frozen")
        assert cfg.AUG.RESIZE == 0 and with_sizes(cfg).AUG.RESIZE == resize and with_sizes(stated) == stated
        assert config_digest(with_sizes(cfg)) == config_digest(stated)


def test_a_config_of_the_other_command_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"imagenet.yaml': MODEL.TRUNK is free, which tools/finetune.py trains; run"):
        load_lincls(CONFIGS / "finetune_R_50_imagenet.yaml", [], "frozen")
    with pytest.raises(ConfigError, match=r"MODEL.TRUNK is frozen, which tools/linear_eval.py trains; .* or set free"):
        load_lincls(CONFIGS / "lincls_R_50.yaml", [], "free")


FILES = [path for kind in ("lincls", "finetune") for path in sorted(CONFIGS.glob(f"{kind}_*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_loads_and_says_what_it_gives(path: Path) -> None:
    cfg = get_lincls_cfg()
    merge_file(cfg, path)
    merge_opts(cfg, ["MODEL.WEIGHTS", "w", "DATA.TRAIN", "t", "DATA.VAL", "v"])
    check(cfg)
    head = path.read_text().split("MODEL:")[0]
    assert f"--config-file configs/pretrain/{path.name}" in head and "Published" in head and "Cost:" in head


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.WEIGHTS", "''"), "MODEL.WEIGHTS is empty; give a pre-trained checkpoint"),
        (("MODEL.TRUNK", "thawed"), "MODEL.TRUNK is 'thawed'; it must be frozen or free"),
        (
            ("MODEL.TRUNK", "free"),
            "AUG.TRAIN False .* once, which a free trunk cannot; set AUG.TRAIN True",
        ),
        (
            ("MODEL.TRUNK", "free", "MODEL.WEIGHTS", "''"),
            "MODEL.ARCH does not say which; give",
        ),
        (("DATA.VAL", "''"), "DATA.VAL is empty; give a folder of images per class"),
        (("SOLVER.AMP", "half"), "SOLVER.AMP is 'half'; it must be off or bf16 or fp16"),
        (("SOLVER.BASE_LR", -1), "SOLVER.BASE_LR is -1.0; it must be at least 0"),
        (("SOLVER.EPOCHS", 0), "SOLVER.EPOCHS is 0; it must be at least 1"),
        (("AUG.RESIZE", 47), "AUG.RESIZE 47 is below AUG.CROP_SIZE 48.* set AUG.RESIZE 0"),
        (("AUG.SCALE", (0.5, 0.1)), "AUG.SCALE is .* share of the area"),
        (("DATA.ON_BAD_IMAGE", "skip"), "DATA.ON_BAD_IMAGE skip has no effect without AUG.TRAIN"),
    ],
)
def test_what_cannot_work_is_refused(opts: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(tiny(*opts))


def test_batch_that_cannot_be_divided() -> None:
    check(tiny(), world_size=2)
    with pytest.raises(ConfigError, match="SOLVER.BATCH_SIZE 8 is not divisible by 3 processes; take 6"):
        check(tiny(), world_size=3)
    free = ("MODEL.TRUNK", "free", "AUG.TRAIN", True, "SOLVER.BATCH_SIZE", 4)
    check(tiny(*free), world_size=2)
    with pytest.raises(ConfigError, match="BATCH_SIZE 4 leaves one image to each of 4 processes, .* set .*_SIZE 8 or"):
        check(tiny(*free), world_size=4)
    check(tiny("SOLVER.BATCH_SIZE", 4), world_size=4)  # a frozen trunk takes no statistics
