"""What the torchvision engine does with every key: honours it, refuses it with a reason, or says that it has no effect.

Nothing is ignored silently. Detectron2 honours all of its own keys; this table is about the other engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.config import ConfigError, dotted_keys, value_at
from transfer.config.defaults import get_cfg

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Support:
    """One entry: `status` is "honoured", "refused" or "no effect"; `why` explains a refusal or the lack of effect.

    A honoured key may accept only some values (`accepts`); a refused key accepts only its default.
    """

    status: str
    why: str = ""
    accepts: Callable[[Any], bool] | None = None


HONOURED = Support("honoured")


def _only(*values: Any, why: str) -> Support:
    return Support("honoured", why, lambda value: value in values)


def _refused(why: str) -> Support:
    return Support("refused", why)


def _no_effect(why: str) -> Support:
    return Support("no effect", why)


_OTHER_TASK = _refused("belongs to a detector that is not among the papers' VOC and COCO detectors; use Detectron2")
_DEFORM = _refused("deformable convolutions are not part of the papers' detectors; use Detectron2")
_PROPOSALS = _refused("precomputed proposals are not supported; proposals come from the RPN")
_FED = _refused("federated loss and sigmoid classification belong to LVIS recipes; use Detectron2")
_NO_MASK = _no_effect("there is no mask head while MODEL.MASK_ON is False")
_C4_ONLY = _no_effect("the C4 box head is res5; it has no fc or conv layers of its own")

# Longest prefix wins; a key that ends in ".*" stands for a whole branch.
TABLE: Mapping[str, Support] = {
    "VERSION": _only(2, why="only config version 2 exists here"),
    "MODEL.DEVICE": HONOURED,
    "MODEL.META_ARCHITECTURE": _only("GeneralizedRCNN", why="the papers' detectors are two-stage"),
    "MODEL.WEIGHTS": HONOURED,
    "MODEL.PIXEL_MEAN": HONOURED,
    "MODEL.PIXEL_STD": HONOURED,
    "MODEL.MASK_ON": _refused("the torchvision engine has no mask head yet; use Detectron2"),
    "MODEL.KEYPOINT_ON": _refused("the torchvision engine has no keypoint head; use Detectron2"),
    "MODEL.LOAD_PROPOSALS": _PROPOSALS,
    "MODEL.BACKBONE.NAME": _only("build_resnet_backbone", why="the torchvision engine builds the C4 trunk"),
    "MODEL.BACKBONE.FREEZE_AT": _only(0, 1, 2, 3, 4, why="0 tunes all layers, 1 freezes the stem, 2 also res2, ..."),
    "MODEL.RESNETS.DEPTH": _only(18, 34, 50, 101, 152, why="these are the depths that torchvision has"),
    "MODEL.RESNETS.OUT_FEATURES": _only(["res4"], ("res4",), why="the C4 detector reads res4"),
    "MODEL.RESNETS.NUM_GROUPS": HONOURED,
    "MODEL.RESNETS.WIDTH_PER_GROUP": HONOURED,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": HONOURED,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": HONOURED,
    "MODEL.RESNETS.NORM": _only("BN", "SyncBN", "naiveSyncBN", "FrozenBN", why="these are the papers' norms"),
    "MODEL.RESNETS.STRIDE_IN_1X1": HONOURED,
    "MODEL.RESNETS.RES5_DILATION": _only(1, why="dilated conv5 belongs to the DC5 detector"),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": _DEFORM,
    "MODEL.RESNETS.DEFORM_MODULATED": _DEFORM,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _DEFORM,
    "MODEL.FPN.*": _no_effect("the C4 trunk has no feature pyramid"),
    "MODEL.ANCHOR_GENERATOR.NAME": _only("DefaultAnchorGenerator", why="rotated anchors are not supported"),
    "MODEL.ANCHOR_GENERATOR.SIZES": HONOURED,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": HONOURED,
    "MODEL.ANCHOR_GENERATOR.ANGLES": _no_effect("anchors are axis-aligned"),
    "MODEL.ANCHOR_GENERATOR.OFFSET": HONOURED,
    "MODEL.PROPOSAL_GENERATOR.NAME": _only("RPN", why="proposals come from the RPN"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": HONOURED,
    "MODEL.RPN.*": HONOURED,
    "MODEL.RPN.HEAD_NAME": _only("StandardRPNHead", why="the papers use the standard head"),
    "MODEL.RPN.IN_FEATURES": _only(["res4"], ("res4",), why="the C4 detector reads res4"),
    "MODEL.RPN.BOUNDARY_THRESH": _only(-1, why="anchors that cross the image border are kept, as in the papers"),
    "MODEL.RPN.IOU_LABELS": _only([0, -1, 1], (0, -1, 1), why="background, ignored, foreground"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _only("smooth_l1", why="the papers use (smooth) L1"),
    "MODEL.RPN.CONV_DIMS": _only([-1], (-1,), why="one 3x3 convolution that keeps the channels"),
    "MODEL.ROI_HEADS.*": HONOURED,
    "MODEL.ROI_HEADS.NAME": _only("Res5ROIHeads", "Res5ROIHeadsExtraNorm", why="the C4 heads"),
    "MODEL.ROI_HEADS.IN_FEATURES": _only(["res4"], ("res4",), why="the C4 detector reads res4"),
    "MODEL.ROI_HEADS.IOU_LABELS": _only([0, 1], (0, 1), why="background, foreground"),
    "MODEL.ROI_BOX_HEAD.*": HONOURED,
    "MODEL.ROI_BOX_HEAD.NAME": _C4_ONLY,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _only("smooth_l1", why="the papers use (smooth) L1"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _only("ROIAlignV2", why="aligned RoIAlign, as the papers' Detectron2 configs"),
    "MODEL.ROI_BOX_HEAD.NUM_FC": _C4_ONLY,
    "MODEL.ROI_BOX_HEAD.FC_DIM": _C4_ONLY,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": _C4_ONLY,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": _C4_ONLY,
    "MODEL.ROI_BOX_HEAD.NORM": _C4_ONLY,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": _refused("the papers regress a box per class; use Detectron2"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": _refused("the mask head of the papers trains on proposals"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": _FED,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": _FED,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": _FED,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": _FED,
    "MODEL.ROI_BOX_CASCADE_HEAD.*": _OTHER_TASK,
    "MODEL.ROI_MASK_HEAD.*": _NO_MASK,
    "MODEL.ROI_KEYPOINT_HEAD.*": _OTHER_TASK,
    "MODEL.SEM_SEG_HEAD.*": _OTHER_TASK,
    "MODEL.PANOPTIC_FPN.*": _OTHER_TASK,
    "MODEL.RETINANET.*": _OTHER_TASK,
    "INPUT.FORMAT": _only("RGB", "BGR", why="images are read as three 8-bit channels"),
    "INPUT.MIN_SIZE_TRAIN": HONOURED,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _only("choice", "range", why="these are Detectron2's two ways"),
    "INPUT.MAX_SIZE_TRAIN": HONOURED,
    "INPUT.MIN_SIZE_TEST": HONOURED,
    "INPUT.MAX_SIZE_TEST": HONOURED,
    "INPUT.RANDOM_FLIP": _only("horizontal", "none", why="the papers flip horizontally"),
    "INPUT.CROP.*": _refused("the papers' detectors train on whole images; use Detectron2"),
    "INPUT.MASK_FORMAT": _NO_MASK,
    "DATASETS.TRAIN": HONOURED,
    "DATASETS.TEST": HONOURED,
    "DATASETS.SPECS": HONOURED,
    "DATASETS.PROPOSAL_FILES_TRAIN": _PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _PROPOSALS,
    "DATASETS.PROPOSAL_FILES_TEST": _PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _PROPOSALS,
    "DATALOADER.NUM_WORKERS": HONOURED,
    "DATALOADER.ASPECT_RATIO_GROUPING": HONOURED,
    "DATALOADER.SAMPLER_TRAIN": _only("TrainingSampler", why="the papers draw images uniformly"),
    "DATALOADER.REPEAT_THRESHOLD": _refused("belongs to RepeatFactorTrainingSampler; use Detectron2"),
    "DATALOADER.REPEAT_SQRT": _refused("belongs to RepeatFactorTrainingSampler; use Detectron2"),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": HONOURED,
    "SOLVER.*": HONOURED,
    "SOLVER.LR_SCHEDULER_NAME": _only("WarmupMultiStepLR", "WarmupCosineLR", why="step and cosine schedules"),
    "SOLVER.NUM_DECAYS": _no_effect("belongs to WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": _only("linear", "constant", why="these are Detectron2's two ways"),
    "SOLVER.RESCALE_INTERVAL": _refused("steps count from iteration 0, warm-up included; use Detectron2"),
    "SOLVER.REFERENCE_WORLD_SIZE": _refused("configs are never rewritten; set batch, rate and steps yourself"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _only("value", "norm", why="these are Detectron2's two ways"),
    "TEST.EXPECTED_RESULTS": _no_effect("results go to result.json; compare them there"),
    "TEST.EVAL_PERIOD": HONOURED,
    "TEST.KEYPOINT_OKS_SIGMAS": _OTHER_TASK,
    "TEST.DETECTIONS_PER_IMAGE": HONOURED,
    "TEST.AUG.*": _refused("the papers test at one scale, without flipping; use Detectron2"),
    "TEST.PRECISE_BN.*": HONOURED,
    "OUTPUT_DIR": HONOURED,
    "SEED": HONOURED,
    "CUDNN_BENCHMARK": HONOURED,
    "FLOAT32_PRECISION": _only("", "highest", "high", "medium", why="torch.set_float32_matmul_precision's values"),
    "VIS_PERIOD": _no_effect("pictures are drawn from saved predictions"),
    "GLOBAL.*": _no_effect("nothing here reads it"),
}


def lookup(key: str) -> Support:
    """The entry of a dotted key: its own, else that of the nearest enclosing branch.

    Raises:
        KeyError: the table has no entry, which a test rules out for every key of the defaults.
    """
    if key in TABLE:
        return TABLE[key]
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        branch = ".".join(parts[:end]) + ".*"
        if branch in TABLE:
            return TABLE[branch]
    raise KeyError(key)


def check(cfg: Mapping[str, Any]) -> list[str]:
    """Holds a merged config against the table.

    Returns:
        A sentence for every key that was set away from its default but has no effect.

    Raises:
        ConfigError: all refused settings at once, each with its reason.
    """
    defaults = get_cfg()
    refused, idle = [], []
    for key in dotted_keys(defaults):
        value, default, entry = value_at(cfg, key), value_at(defaults, key), lookup(key)
        changed = _plain(value) != _plain(default)
        if entry.status == "refused" and changed or entry.accepts is not None and not entry.accepts(value):
            refused.append(f"{key} = {value!r}: {entry.why}")
        elif entry.status == "no effect" and changed:
            idle.append(f"{key} = {value!r} has no effect on the torchvision engine: {entry.why}")
    if refused:
        raise ConfigError("the torchvision engine refuses:\n  " + "\n  ".join(refused))
    return idle


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
