"""The authors' rule, against the numbers that they give and against the images that a schedule sees."""

from __future__ import annotations

import logging

import pytest

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from transfer.config.defaults import get_cfg
from transfer.config.lint import lint
from transfer.config.load import digest, load_config
from transfer.config.scale import scale, scaled_options

VOC = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_50_C4_24k_moco.yaml"


def test_the_authors_example():
    """Batch 8: rate 0.01, iterations, steps and warm-up twice as long."""
    opts, notes = scaled_options(VOC, ["TEST.EVAL_PERIOD", "5000"], get_cfg(), 8)
    cfg, before = load_config(VOC, opts), load_config(VOC)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (8, 0.01, 48000)
    assert tuple(cfg.SOLVER.STEPS) == (36000, 44000) and cfg.SOLVER.WARMUP_ITERS == 200
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 10000 and cfg.TEST.EVAL_PERIOD == 10000
    assert cfg.TEST.PRECISE_BN.NUM_ITER == before.TEST.PRECISE_BN.NUM_ITER and lint(cfg) == []
    (note,) = notes
    original = load_config(VOC, ["TEST.EVAL_PERIOD", "5000"])
    assert digest(original) in note and digest(cfg) != digest(original)
    assert "SOLVER.IMS_PER_BATCH 16 -> 8, SOLVER.BASE_LR 0.02 -> 0.01" in note


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 12, 24, 32])
def test_the_same_images_are_seen(batch):
    """Up to half an iteration, since iterations are whole; batches above the config's scale up."""
    cfg = load_config(VOC)
    new = load_config(VOC, scale(cfg, batch).opts)
    assert new.SOLVER.BASE_LR / new.SOLVER.IMS_PER_BATCH == pytest.approx(0.02 / 16, rel=1e-12)
    pairs = [(a, b) for a, b in zip(cfg.SOLVER.STEPS, new.SOLVER.STEPS, strict=True)]
    for before, after in [*pairs, (cfg.SOLVER.MAX_ITER, new.SOLVER.MAX_ITER), (100, new.SOLVER.WARMUP_ITERS)]:
        assert abs(before * 16 - after * batch) <= batch / 2


def test_rounding_and_its_limits():
    cfg = load_config(VOC, ["SOLVER.STEPS", "(3, 5)", "SOLVER.MAX_ITER", "9", "SOLVER.WARMUP_ITERS", "1"])
    rows = {key: after for key, _, after in scale(cfg, 32).rows}
    assert rows["SOLVER.STEPS"] == (2, 3) and rows["SOLVER.MAX_ITER"] == 5  # halves go up
    assert "SOLVER.WARMUP_ITERS" not in rows and "TEST.EVAL_PERIOD" not in rows  # 1 stays 1, 0 stays 0
    with pytest.raises(ConfigError, match="would fall together"):
        scale(cfg, 128)


def test_a_table_and_nothing_to_do(caplog):
    with caplog.at_level(logging.INFO):
        scaled_options(VOC, [], get_cfg(), 8)
    assert "SOLVER.STEPS" in caplog.text and "(18000, 22000)  ->  (36000, 44000)" in caplog.text
    assert scale(load_config(VOC), 16) is None
    assert scaled_options(VOC, ["SEED", "1"], get_cfg(), 16) == (["SEED", "1"], [])
    assert scaled_options(VOC, ["SEED", "1"], get_cfg(), None) == (["SEED", "1"], [])


def test_refusals():
    with pytest.raises(ConfigError, match="--auto-scale 0: give the images per batch"):
        scale(load_config(VOC), 0)
    with pytest.raises(ConfigError, match="REFERENCE_WORLD_SIZE is 8, by which Detectron2 scales"):
        scale(load_config(VOC, ["SOLVER.REFERENCE_WORLD_SIZE", "8"]), 8)
