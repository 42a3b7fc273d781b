"""The shipped configs say what the papers say, and what cannot work is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.config import RUNTIME_KEYS, check, get_cfg
from pretrain.encoders import base_encoder
from pretrain.runtime.config import ConfigError, dotted_keys, merge_file, merge_opts
from tests.pretrain.conftest import ROOT, TINY

FOLDER = ROOT / "configs" / "pretrain"
FILES = sorted(FOLDER.glob("*.yaml"))


def load(path: Path, *opts: str) -> CfgNode:
    cfg = get_cfg()
    merge_file(cfg, path)
    merge_opts(cfg, ["DATA.TRAIN", "images", *opts])
    return cfg


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_loads_and_passes_the_check(path: Path) -> None:
    cfg = load(path)
    check(cfg, world_size=1 if cfg.MODEL.BN_GROUPS > 1 else 8)
    base_encoder(cfg.MODEL.ARCH)


@pytest.mark.parametrize("path", [p for p in FILES if not p.name.startswith("Base")], ids=lambda p: p.stem)
def test_every_config_opens_with_command_score_and_cost(path: Path) -> None:
    head = path.read_text().split("_BASE_")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"--config-file configs/pretrain/{path.name}" in head and "Published:" in head and "Cost:" in head


def test_the_papers_recipes() -> None:
    v1, v2, v2_long = (load(FOLDER / f"moco_{x}ep.yaml") for x in ("v1_R_50_200", "v2_R_50_200", "v2_R_50_800"))
    for cfg in (v1, v2, v2_long):
        assert (cfg.MODEL.ARCH, cfg.MODEL.DIM, cfg.MODEL.K, cfg.MODEL.M) == ("resnet50", 128, 65536, 0.999)
        assert (cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM) == (256, 0.03, 0.9)
        assert cfg.SOLVER.WEIGHT_DECAY == 1e-4 and cfg.AUG.CROP_SIZE == 224 and tuple(cfg.AUG.SCALE) == (0.2, 1.0)
        assert cfg.MODEL.SHUFFLE_BN
    assert (v1.MODEL.T, v1.MODEL.MLP, v1.AUG.RECIPE, v1.SOLVER.SCHEDULE) == (0.07, False, "v1", "step")
    assert tuple(v1.SOLVER.STEPS) == (120, 160) and v1.SOLVER.GAMMA == 0.1 and v1.SOLVER.EPOCHS == 200
    for cfg, epochs in ((v2, 200), (v2_long, 800)):
        assert (cfg.MODEL.T, cfg.MODEL.MLP, cfg.AUG.RECIPE, cfg.SOLVER.SCHEDULE) == (0.2, True, "v2", "cosine")
        assert cfg.SOLVER.EPOCHS == epochs


def test_defaults_are_moco_v1() -> None:
    cfg = load(FOLDER / "moco_v1_R_50_200ep.yaml")
    default = get_cfg()
    default.DATA.TRAIN = "images"
    assert cfg == default


def test_runtime_keys_exist() -> None:
    assert set(RUNTIME_KEYS) <= set(dotted_keys(get_cfg()))


@pytest.mark.parametrize(
    "opts, message",
    [
        (("AUG.RECIPE", "v3"), "AUG.RECIPE is 'v3'; it must be v1 or v2"),
        (("SOLVER.SCHEDULE", "poly"), "SOLVER.SCHEDULE is 'poly'; it must be step or cosine"),
        (("DATA.ON_BAD_IMAGE", "ignore"), "DATA.ON_BAD_IMAGE is 'ignore'; it must be error or skip"),
        (("DEVICE", "tpu"), "DEVICE is 'tpu'"),
        (("MODEL.K", "36"), "MODEL.K 36 is not a multiple of SOLVER.BATCH_SIZE 8; take 32"),
        (("MODEL.BN_GROUPS", "3"), "SOLVER.BATCH_SIZE 8 is not divisible by 3 BN groups"),
        (("MODEL.BN_GROUPS", "8"), "8 BN groups leave 1 image of SOLVER.BATCH_SIZE 8 to each"),
        (("MODEL.BN_GROUPS", "1"), "MODEL.SHUFFLE_BN has no effect with one process and MODEL.BN_GROUPS 1"),
        (("MODEL.BN_GROUPS", "0"), "MODEL.BN_GROUPS is 0; it must be at least 1"),
        (("MODEL.M", "1.5"), "MODEL.M is 1.5; a momentum lies between 0 and 1"),
        (("MODEL.T", "0.0"), "MODEL.T is 0.0; a temperature is above 0"),
        (("AUG.SCALE", "(0.5, 0.2)"), "AUG.SCALE is"),
        (("SOLVER.BASE_LR", "float('nan')"), "BASE_LR"),
        (("SOLVER.EPOCHS", "0"), "SOLVER.EPOCHS is 0; it must be at least 1"),
        (("LOG_PERIOD", "0"), "LOG_PERIOD is 0"),
        (("SOLVER.EPOCHS", "1.5"), "SOLVER.EPOCHS"),
        (("SOLVER.LR", "1"), "unknown key 'SOLVER.LR'"),
        (("DATA.TRAIN", ""), "DATA.TRAIN is empty; give a folder"),
    ],
)
def test_what_cannot_work_is_refused(opts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(load(TINY, *opts))
    assert message in str(caught.value)


def test_processes_count_as_bn_groups() -> None:
    cfg = load(TINY, "MODEL.BN_GROUPS", "1")
    check(cfg, world_size=2)
    with pytest.raises(ConfigError, match="not divisible by 3 BN groups"):
        check(cfg, world_size=3)


def test_no_shuffle_needs_no_groups() -> None:
    check(load(TINY, "MODEL.BN_GROUPS", "1", "MODEL.SHUFFLE_BN", "False"))
