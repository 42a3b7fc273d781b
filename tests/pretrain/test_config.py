"""The shipped configs say what the papers say, and what cannot work is refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.config import _LIMITS, RUNTIME_KEYS, check, get_cfg
from pretrain.encoders import base_encoder
from pretrain.mechanisms import MECHANISMS
from pretrain.probes import config as lincls_config
from pretrain.probes.config import get_lincls_cfg
from pretrain.runtime.config import ConfigError, dotted_keys, merge_file, merge_opts, value_at
from pretrain.runtime.limits import Limit
from tests.pretrain.conftest import ROOT, TINY

FOLDER = ROOT / "configs" / "pretrain"
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if not path.name.startswith(("lincls", "finetune"))]


def load(path: Path, *opts: str) -> CfgNode:
    cfg = get_cfg()
    merge_file(cfg, path)
    merge_opts(cfg, ["DATA.TRAIN", "images", *opts])
    return cfg


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_loads_and_passes_the_check(path: Path) -> None:
    cfg = load(path)
    check(cfg, world_size=1 if cfg.MODEL.BN_GROUPS > 1 else 8)  # raises if it does not pass
    assert callable(base_encoder(cfg.MODEL.ARCH))


@pytest.mark.parametrize("path", [p for p in FILES if not p.name.startswith("Base")], ids=lambda p: p.stem)
def test_every_config_opens_with_command_score_and_cost(path: Path) -> None:
    head = path.read_text().split("_BASE_")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"--config-file configs/pretrain/{path.name}" in head and "Published:" in head
    assert re.search(r"^# Cost: .*[a-z]{3}", head, re.M)


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


def test_the_other_recipes_of_the_papers() -> None:
    ig, bank, bank_nce, pair, pair_v2 = (
        load(FOLDER / f"{name}.yaml")
        for name in (
            *("moco_v1_R_50_IG1B", "memory_bank_R_50_200ep", "memory_bank_nce_R_50_200ep"),
            *("end_to_end_v1_R_50_200ep", "end_to_end_v2_R_50_200ep"),
        )
    )
    assert (ig.SOLVER.BATCH_SIZE, ig.SOLVER.BASE_LR, ig.SOLVER.ITERATIONS) == (1024, 0.12, 1250000)
    assert (ig.SOLVER.SCHEDULE, ig.SOLVER.GAMMA, ig.SOLVER.PERIOD) == ("exponential", 0.9, 62500)
    assert (ig.MODEL.K, ig.MODEL.M, ig.MODEL.T, ig.AUG.RECIPE) == (65536, 0.999, 0.07, "v1")
    assert (bank.MODEL.MECHANISM, bank.MODEL.BANK_LOSS, bank.MODEL.K) == ("memory_bank", "infonce", 65536)
    assert (bank_nce.MODEL.MECHANISM, bank_nce.MODEL.BANK_LOSS, bank_nce.MODEL.K) == ("memory_bank", "nce", 4096)
    for cfg, recipe in ((pair, "v1"), (pair_v2, "v2")):
        assert (cfg.MODEL.MECHANISM, cfg.MODEL.SHUFFLE_BN, cfg.AUG.RECIPE) == ("end_to_end", True, recipe)
        assert cfg.SOLVER.BASE_LR / cfg.SOLVER.REFERENCE_BATCH == 0.03 / 256


def test_the_supervised_recipe_is_that_of_the_papers_baseline() -> None:
    cfg = load(FOLDER / "supervised_R_50_100ep.yaml")
    assert (cfg.MODEL.MECHANISM, cfg.AUG.RECIPE, tuple(cfg.AUG.SCALE)) == ("supervised", "supervised", (0.08, 1.0))
    solver = cfg.SOLVER
    assert (solver.BATCH_SIZE, solver.BASE_LR, solver.EPOCHS, solver.WEIGHT_DECAY) == (256, 0.1, 100, 1e-4)
    assert (solver.SCHEDULE, tuple(solver.STEPS), solver.GAMMA) == ("step", (30, 60, 90), 0.1)


@pytest.mark.parametrize(
    "name, epochs, batch, T",
    [("200ep_b256", 200, 256, 0.5), ("200ep_b8192", 200, 8192, 0.1), ("1000ep_b4096", 1000, 4096, 0.1)],
)
def test_simclr_is_that_of_its_authors(name: str, epochs: int, batch: int, T: float) -> None:
    cfg = load(FOLDER / f"simclr_R_50_{name}.yaml")
    model, solver = cfg.MODEL, cfg.SOLVER
    assert (model.MECHANISM, model.DIM, model.MLP, model.T, model.SYNC_BN) == ("simclr", 128, True, T, True)
    assert (cfg.AUG.RECIPE, tuple(cfg.AUG.SCALE), cfg.AUG.CROP_SIZE) == ("simclr", (0.08, 1.0), 224)
    assert (solver.OPTIMIZER, solver.BATCH_SIZE, solver.EPOCHS, solver.WARMUP_EPOCHS) == ("lars", batch, epochs, 10)
    assert (solver.BASE_LR, solver.REFERENCE_BATCH, solver.WEIGHT_DECAY, solver.SCHEDULE) == (0.3, 256, 1e-6, "cosine")


def test_defaults_are_moco_v1() -> None:
    cfg = load(FOLDER / "moco_v1_R_50_200ep.yaml")
    default = get_cfg()
    default.DATA.TRAIN = "images"
    assert cfg == default


def test_named_keys_exist() -> None:
    keys = set(dotted_keys(get_cfg()))
    assert set(RUNTIME_KEYS) <= keys and all(set(m.no_effect) <= keys for m in MECHANISMS.values())


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
        (("MODEL.M", "1.5"), "MODEL.M is 1.5; it must be at least 0 and at most 1"),
        (("MODEL.T", "0.0"), "MODEL.T is 0.0; it must be above 0"),
        (("AUG.SCALE", "(0.5, 0.2)"), "AUG.SCALE is"),
        (("SOLVER.BASE_LR", "float('nan')"), "BASE_LR"),
        (("SOLVER.EPOCHS", "0"), "SOLVER.EPOCHS is 0 and SOLVER.ITERATIONS is 0; one of them is the length"),
        (("LOG_PERIOD", "0"), "LOG_PERIOD is 0"),
        (("SOLVER.EPOCHS", "1.5"), "SOLVER.EPOCHS"),
        (("SOLVER.ITERATIONS", "5"), "SOLVER.EPOCHS is 2 and SOLVER.ITERATIONS is 5; one of them is the length"),
        (("SOLVER.EPOCHS", "0", "SOLVER.ITERATIONS", "5"), "SOLVER.SCHEDULE cosine goes by epochs"),
        (
            ("SOLVER.ACCUMULATE", "3"),
            "not divisible by 6 BN groups (1 processes x SOLVER.ACCUMULATE 3 x MODEL.BN_GROUPS",
        ),
        (("SOLVER.AMP", "fp8"), "SOLVER.AMP is 'fp8'; it must be off or bf16 or fp16"),
        (
            ("MODEL.MECHANISM", "byol"),
            "MODEL.MECHANISM is 'byol'; it must be moco or end_to_end or memory_bank or simclr",
        ),
        (("MODEL.MECHANISM", "simclr"), "MODEL.SHUFFLE_BN has no effect on the simclr mechanism, whose views are"),
        (
            ("MODEL.MECHANISM", "simclr", "MODEL.SHUFFLE_BN", "False", "SOLVER.ACCUMULATE", "2"),
            "SOLVER.ACCUMULATE 2 would take negatives away from the simclr mechanism",
        ),
        (("SOLVER.OPTIMIZER", "adam"), "SOLVER.OPTIMIZER is 'adam'; it must be sgd or lars"),
        (
            ("SOLVER.WARMUP_EPOCHS", "2"),
            "SOLVER.WARMUP_EPOCHS 2 leaves nothing of SOLVER.EPOCHS 2; the warm-up must be",
        ),
        (("SOLVER.WARMUP_EPOCHS", "-1"), "SOLVER.WARMUP_EPOCHS is -1; it must be at least 0"),
        (
            *[("SOLVER.EPOCHS", "0", "SOLVER.ITERATIONS", "5", "SOLVER.SCHEDULE", "step", "SOLVER.WARMUP_EPOCHS", "1")],
            "SOLVER.WARMUP_EPOCHS 1 goes by epochs; set SOLVER.EPOCHS",
        ),
        (("MODEL.MECHANISM", "end_to_end", "SOLVER.ACCUMULATE", "2"), "would take negatives away from the end_to_end"),
        (("MODEL.MECHANISM", "memory_bank"), "MODEL.SHUFFLE_BN has no effect on the memory_bank mechanism"),
        (("MODEL.SYNC_BN", "True"), "MODEL.SYNC_BN gives query and key the same BN statistics"),
        (("MODEL.SYNC_BN", "True", "MODEL.SHUFFLE_BN", "False"), "MODEL.SYNC_BN and MODEL.BN_GROUPS 2 contradict"),
        (("MODEL.BANK_MOMENTUM", "2.0"), "MODEL.BANK_MOMENTUM is 2.0; it must be at least 0 and at most 1"),
        (("MODEL.K", "8000000000000"), "MODEL.K is 8000000000000; it must be at least 1 and at most 67108864"),
        (("SOLVER.STEPS", "(-1,)"), "SOLVER.STEPS is (-1,); every number in it must be at least 0"),
        (("SOLVER.GAMMA", "0.0"), "SOLVER.GAMMA is 0.0; it must be above 0 and at most 1"),
        (("SOLVER.MOMENTUM", "1"), "SOLVER.MOMENTUM is 1.0; it must be at least 0 and below 1"),
        (("SOLVER.WEIGHT_DECAY", "-1"), "SOLVER.WEIGHT_DECAY is -1.0"),
        (
            ("KNN.PERIOD", "1", "KNN.TRAIN", "x"),
            "KNN.VAL is empty; KNN.PERIOD 1 wants a folder with a folder of images",
        ),
        (("KNN.T", "0"), "KNN.T is 0.0; it must be above 0"),
        (("AUG.CROP_SIZE", "100000"), "AUG.CROP_SIZE is 100000; it must be at least 8 and at most 4096"),
        (("SEED", "4294967296"), "SEED is 4294967296; it must be at least 0 and at most 4294967295"),
        (("AUG.SCALE", "(0.5, '1')"), "AUG.SCALE[1] is '1'; give a number"),
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
    with pytest.raises(ConfigError, match="SHUFFLE_BN"):
        check(load(TINY, "MODEL.BN_GROUPS", "1", "MODEL.SHUFFLE_BN", "True"))


@pytest.mark.parametrize(("tree", "limits"), [(get_cfg(), _LIMITS), (get_lincls_cfg(), lincls_config._LIMITS)])
def test_every_number_has_limits(tree: CfgNode, limits: dict[str, Limit]) -> None:
    numbers = {k for k in dotted_keys(tree) if type(value_at(tree, k)) in (int, float, tuple)}
    assert numbers == set(limits)
