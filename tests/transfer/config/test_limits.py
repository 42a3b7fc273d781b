"""Which values no engine could follow: each is refused when its config is loaded, and told what it must be."""

from __future__ import annotations

import pytest

from pretrain.runtime.config import ConfigError, dotted_keys, value_at
from transfer.config import limits
from transfer.config.defaults import get_cfg
from transfer.config.load import load_config

REFUSED = """
SOLVER.IMS_PER_BATCH 0 | at least 1
SOLVER.IMS_PER_BATCH -2 | at least 1
SOLVER.BASE_LR 0 | above 0
SOLVER.BASE_LR -0.1 | above 0
SOLVER.BASE_LR nan | give a number
SOLVER.BASE_LR 1e400 | give a finite number
SOLVER.MAX_ITER 0 | at least 1
SOLVER.WARMUP_ITERS -1 | at least 0
SOLVER.WARMUP_FACTOR 2.0 | at most 1
SOLVER.STEPS (-1,) | at least 0
SOLVER.STEPS (1.5,) | give a whole number
SOLVER.STEPS ('1e1',) | give a whole number
SOLVER.GAMMA 0 | above 0
SOLVER.GAMMA 10 | at most 1
SOLVER.MOMENTUM 1 | below 1
SOLVER.WEIGHT_DECAY -1e-4 | at least 0
SOLVER.WEIGHT_DECAY_BIAS -1 | at least 0
SOLVER.WEIGHT_DECAY_BIAS x | give a number, or None
SOLVER.CHECKPOINT_PERIOD 0 | at least 1
SOLVER.CLIP_GRADIENTS.CLIP_VALUE 0 | above 0
SOLVER.LR_SCHEDULER_NAME WarmupMultistepLR | did you mean WarmupMultiStepLR
DATALOADER.NUM_WORKERS -1 | at least 0
DATALOADER.NUM_WORKERS 100000 | at most 1024
MODEL.DEVICE gpu | must be cpu, cuda
MODEL.PIXEL_STD (1,0,1) | above 0
MODEL.PIXEL_STD (1,1) | needs 3
MODEL.PIXEL_MEAN () | it must have 1 to 3 elements
MODEL.PIXEL_MEAN (1,'2',3) | give a number
MODEL.BACKBONE.FREEZE_AT 6 | at most 5
MODEL.BACKBONE.FREEZE_AT -1 | at least 0
MODEL.RESNETS.DEPTH 51 | 18 or 34 or 50
MODEL.RESNETS.NUM_GROUPS 0 | at least 1
MODEL.RESNETS.OUT_FEATURES () | 1 elements or more
MODEL.ANCHOR_GENERATOR.SIZES [] | 1 elements or more
MODEL.ANCHOR_GENERATOR.SIZES [[]] | an empty list in it
MODEL.ANCHOR_GENERATOR.SIZES [[-32]] | above 0
MODEL.ANCHOR_GENERATOR.SIZES [32] | give a list
MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[0.0]] | above 0
MODEL.ANCHOR_GENERATOR.OFFSET 1.0 | below 1
MODEL.RPN.BATCH_SIZE_PER_IMAGE 0 | at least 1
MODEL.RPN.POSITIVE_FRACTION 1.5 | at most 1
MODEL.RPN.NMS_THRESH -0.1 | at least 0
MODEL.RPN.PRE_NMS_TOPK_TRAIN 0 | at least 1
MODEL.RPN.IOU_THRESHOLDS [0.7,0.3] | thresholds must rise
MODEL.RPN.IOU_LABELS [0,1] | one label more
MODEL.RPN.CONV_DIMS [0] | has a 0
MODEL.RPN.BBOX_REG_WEIGHTS (1,1,1) | 4 elements
MODEL.ROI_HEADS.NUM_CLASSES 0 | at least 1
MODEL.ROI_HEADS.SCORE_THRESH_TEST 2 | at most 1
MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 0 | at least 1
MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO -1 | at least 0
INPUT.MIN_SIZE_TRAIN () | 1 elements or more
INPUT.MIN_SIZE_TRAIN (0,) | at least 1
INPUT.MIN_SIZE_TRAIN 800 | give a list
INPUT.MAX_SIZE_TRAIN 0 | at least 1
INPUT.MAX_SIZE_TEST 1000000 | at most 32768
INPUT.MIN_SIZE_TRAIN_SAMPLING rang | did you mean range
INPUT.MIN_SIZE_TRAIN_SAMPLING range | needs two
INPUT.FORMAT GBR | did you mean
DATASETS.TRAIN voc_2007_trainval | give a list
DATASETS.TRAIN (1,) | give text
DATASETS.TEST ('',) | a name in it is empty
TEST.DETECTIONS_PER_IMAGE 0 | at least 1
TEST.PRECISE_BN.NUM_ITER 0 | at least 1
TEST.EVAL_PERIOD -1 | at least 0
SEED -2 | at least -1
SEED 4294967296 | at most 4294967295
SEED True | give a whole number
VERSION 1 | it must be 2
OUTPUT_DIR '' | is empty
"""
CASES = [(row.split(" | ")[0].split(" "), row.split(" | ")[1]) for row in REFUSED.strip().splitlines()]


@pytest.mark.parametrize(("opts", "message"), CASES, ids=[" ".join(opts) for opts, _ in CASES])
def test_what_is_refused(opts, message, small_config):
    with pytest.raises(ConfigError) as caught:
        load_config(small_config, opts)
    text = str(caught.value)
    assert opts[0].split(".")[-1] in text and message in text and "\n" not in text


def test_what_detectron2_allows_stays_allowed(small_config):
    opts = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[22.6, 32]]", "SOLVER.WEIGHT_DECAY_BIAS", "0.0", "SEED", "-1",
            "INPUT.MIN_SIZE_TEST", "0", "MODEL.DEVICE", "cuda:3", "SOLVER.STEPS", "()", "TEST.EXPECTED_RESULTS",
            "[['bbox', 'AP', 38.5, 0.2]]", "INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[0]", "MODEL.PIXEL_STD", "[1]",
            "SOLVER.NESTEROV", "True", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(48, 64)",
            "OUTPUT_DIR", "2024", "SOLVER.BASE_LR", "1e-3"]  # fmt: skip
    cfg = load_config(small_config, opts)
    assert cfg.OUTPUT_DIR == "2024" and cfg.SOLVER.BASE_LR == 0.001 and cfg.MODEL.PIXEL_STD == [1]


def test_nesterov_needs_a_momentum(small_config):
    with pytest.raises(ConfigError, match="SOLVER.NESTEROV is True with SOLVER.MOMENTUM 0; it needs a momentum"):
        load_config(small_config, ["SOLVER.NESTEROV", "True", "SOLVER.MOMENTUM", "0"])


def test_every_number_of_the_tree_has_limits():
    """A new key cannot be forgotten: numbers have limits, and each entry is a key."""
    tree = get_cfg()
    limits.check(tree)
    numbers = {
        key for key in dotted_keys(tree)
        if isinstance(value := value_at(tree, key), (int, float)) and not isinstance(value, bool)
    }  # fmt: skip
    assert numbers - set(limits.LIMITS) - set(limits.CHOICES) == {"GLOBAL.HACK"}
    assert {*limits.LIMITS, *limits.CHOICES, *limits.KINDS} <= set(dotted_keys(tree))
    for key, example in limits.KINDS.items():
        assert type(example) is type(value_at(tree, key))
