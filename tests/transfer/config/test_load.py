"""Merging: bases, options, types, and errors that name the key and the remedy."""

from __future__ import annotations

import pytest

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from transfer.config.defaults import get_cfg
from transfer.config.load import digest, load_config

VOC = ROOT / "configs" / "transfer" / "voc"


def test_a_config_is_merged_and_frozen(small_config):
    cfg = load_config(small_config, ["SOLVER.BASE_LR", "1", "DATASETS.TEST", "('a', 'b')"])
    assert cfg.SOLVER.BASE_LR == 1.0 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.DATASETS.TEST == ("a", "b")
    assert cfg.MODEL.RESNETS.DEPTH == 18 and cfg.INPUT.FORMAT == "RGB"  # from its bases
    with pytest.raises(AttributeError):
        cfg.SOLVER.BASE_LR = 2.0


def test_the_moco_file_differs_from_the_msra_file_in_input_and_stride_only():
    from pretrain.runtime.config import dotted_keys, value_at

    a, b = (load_config(VOC / f"faster_rcnn_R_50_C4_24k{suffix}.yaml") for suffix in ("", "_moco"))

    different = {key for key in dotted_keys(a) if value_at(a, key) != value_at(b, key)}
    assert different == {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1", "INPUT.FORMAT"}


def test_the_papers_recipe_is_in_the_24k_file():
    """Against the paper's text, key by key (paper-facts: VOC, R50-C4, 24k)."""
    cfg = load_config(VOC / "faster_rcnn_R_50_C4_24k.yaml")
    assert cfg.SOLVER.MAX_ITER == 24000 and cfg.SOLVER.STEPS == (18000, 22000) and cfg.SOLVER.WARMUP_ITERS == 100
    assert cfg.SOLVER.IMS_PER_BATCH == 16 and cfg.SOLVER.BASE_LR == 0.02
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(range(480, 801, 32)) and cfg.INPUT.MIN_SIZE_TEST == 800
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.MODEL.RESNETS.NORM == "naiveSyncBN"
    assert cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm" and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 20
    assert cfg.TEST.PRECISE_BN.ENABLED and cfg.TEST.PRECISE_BN.NUM_ITER == 200
    assert cfg.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval") and cfg.DATASETS.TEST == ("voc_2007_test",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {BASE_LRR: 0.1}\n", "did you mean SOLVER.BASE_LR"),
        ("SOLVER:\n  BASE_LR: 0.1\n  BASE_LR: 0.2\n", "stands twice, on line 2 and line 3"),
        ("_BASE_: gone.yaml\n", "does not exist"),
        ("SOLVER: {MAX_ITER: many}\n", "SOLVER.MAX_ITER"),
        ("MODEL: !!python/object/apply:os.system ['true']\n", "cannot read"),
        ("- 1\n", "not a mapping"),
    ],
)
def test_a_bad_file_gets_one_clear_error(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_bad_options_get_one_clear_error(small_config):
    with pytest.raises(ConfigError, match="come in pairs"):
        load_config(small_config, ["SEED"])
    with pytest.raises(ConfigError, match="did you mean MODEL.WEIGHTS"):
        load_config(small_config, ["MODEL.WEIGHT", "x"])


def test_the_digest_ignores_what_makes_no_other_experiment(small_config):
    base = digest(load_config(small_config))
    same = ["SEED", "7", "OUTPUT_DIR", "elsewhere", "MODEL.WEIGHTS", "w.pkl", "MODEL.DEVICE", "cpu"]
    assert digest(load_config(small_config, same)) == base
    assert digest(load_config(small_config, ["SOLVER.BASE_LR", "0.5"])) != base
    assert digest(load_config(small_config, ["DATASETS.TEST", "('x',)"])) != base


def test_defaults_are_a_fresh_copy():
    cfg = get_cfg()
    cfg.MODEL.PIXEL_MEAN[0] = 0.0
    assert get_cfg().MODEL.PIXEL_MEAN[0] == 103.530


def test_a_key_that_came_later_leaves_the_digest_at_its_default():
    """What `docs/evidence.md` recorded before there was RANDOM_SUBSET_RATIO."""
    demo = VOC / "faster_rcnn_narrow_C4_demo_moco.yaml"
    assert digest(load_config(demo)) == "c8b1baf2e4d514c0"
    assert digest(load_config(demo, ["DATALOADER.RANDOM_SUBSET_RATIO", "0.5"])) != "c8b1baf2e4d514c0"
