"""Limits the values of a detector's config: outside of them it would hang, crash, or silently train something else.

The configs of both engines are checked against them when they are loaded. What one engine cannot do is listed in
`transfer.config.support`, and what the papers do otherwise in `transfer.config.lint`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pretrain.runtime.config import ConfigError, value_at
from pretrain.runtime.limits import DECAY, MAX_SEED, MOMENTUM, SHARE, above, at_least, between, check_values
from pretrain.runtime.wording import short
from transfer.config.support import DENSEPOSE_HEADS

# Examples for keys whose default does not show the type: empty lists, and whole numbers that may be fractions.
KINDS: Mapping[str, Any] = {
    "MODEL.FPN.IN_FEATURES": [""],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[1.0]],
    "MODEL.ANCHOR_GENERATOR.ANGLES": [[1.0]],
    "DATASETS.TRAIN": ("",),
    "DATASETS.TEST": ("",),
    "DATASETS.SPECS": ("",),
    "DATASETS.PROPOSAL_FILES_TRAIN": ("",),
    "DATASETS.PROPOSAL_FILES_TEST": ("",),
    "TEST.KEYPOINT_OKS_SIGMAS": [1.0],
}

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "VERSION": (2,),
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"),
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_TYPE": ("ROIAlign", "ROIAlignV2", "ROIPool"),
    "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS": (2, 15),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.AMP.PRECISION": ("fp16", "bf16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
}

_SOME = (1, math.inf)  # elements of a list that is not empty
_COUNT, _NOT_NEGATIVE, _POSITIVE, _ANY = at_least(1), at_least(0), above(0), -math.inf
_SIDE = between(1, 2**15)  # pixels of an image's side
_CHANNELS = between(1, 2**16)
_POOLED = between(1, 512)  # bins along the side of a pooled region
_OVERLAPS = between(0, 1, open_low=True, sizes=_SOME)
_BOX = above(0, sizes=(4, 4))

LIMITS = {
    "MODEL.PIXEL_MEAN": at_least(_ANY, sizes=(1, 3)),
    "MODEL.PIXEL_STD": above(0, sizes=(1, 3)),
    "MODEL.BACKBONE.FREEZE_AT": between(0, 5),
    "MODEL.RESNETS.OUT_FEATURES": at_least(_ANY, sizes=_SOME),
    "MODEL.RESNETS.NUM_GROUPS": _CHANNELS,
    "MODEL.RESNETS.WIDTH_PER_GROUP": _CHANNELS,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _CHANNELS,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _CHANNELS,
    "MODEL.RESNETS.RES5_DILATION": between(1, 2),
    "MODEL.RESNETS.RES5_REDUCED_CHANNELS": _CHANNELS,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _CHANNELS,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": at_least(0, sizes=(4, 4)),
    "MODEL.FPN.OUT_CHANNELS": _CHANNELS,
    "MODEL.ANCHOR_GENERATOR.SIZES": above(0, sizes=_SOME),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": above(0, sizes=_SOME),
    "MODEL.ANCHOR_GENERATOR.ANGLES": at_least(_ANY, sizes=_SOME),
    "MODEL.ANCHOR_GENERATOR.OFFSET": between(0, 1, open_high=True),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _NOT_NEGATIVE,
    "MODEL.RPN.BOUNDARY_THRESH": at_least(-1),
    "MODEL.RPN.CONV_DIMS": at_least(-1, sizes=_SOME),
    "MODEL.ROI_HEADS.NUM_CLASSES": between(1, 2**16),
    "MODEL.ROI_BOX_HEAD.NUM_FC": between(0, 100),
    "MODEL.ROI_BOX_HEAD.FC_DIM": _CHANNELS,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": _NOT_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": _COUNT,
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": above(0, sizes=_SOME),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": _OVERLAPS,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": between(1, 2**16),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": between(1, 2**16),
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": _NOT_NEGATIVE,
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.ROI_DENSEPOSE_HEAD.NUM_STACKED_CONVS": between(1, 100),
    "MODEL.ROI_DENSEPOSE_HEAD.CONV_HEAD_DIM": _CHANNELS,
    "MODEL.ROI_DENSEPOSE_HEAD.HEATMAP_SIZE": between(1, 2048),
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_RESOLUTION": _POOLED,
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_SAMPLING_RATIO": between(0, 100),
    **{f"MODEL.ROI_DENSEPOSE_HEAD.{part}_WEIGHTS": _NOT_NEGATIVE for part in ("INDEX", "PART", "POINT_REGRESSION")},
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": between(-1, 2**31),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": between(1, 2**16),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": _CHANNELS,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": _COUNT,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": SHARE,
    "MODEL.RETINANET.NUM_CLASSES": between(1, 2**16),
    "MODEL.RETINANET.NUM_CONVS": between(0, 100),
    "MODEL.RETINANET.PRIOR_PROB": between(0, 1, open_low=True, open_high=True),
    "MODEL.RETINANET.SCORE_THRESH_TEST": SHARE,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": _COUNT,
    "MODEL.RETINANET.NMS_THRESH_TEST": SHARE,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": _NOT_NEGATIVE,
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": between(-1, 1),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": _NOT_NEGATIVE,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": _BOX,
    **{f"MODEL.{head}.BBOX_REG_WEIGHTS": _BOX for head in ("RPN", "ROI_BOX_HEAD")},
    **{f"MODEL.{head}.BBOX_REG_LOSS_WEIGHT": _NOT_NEGATIVE for head in ("RPN", "ROI_BOX_HEAD")},
    **{f"MODEL.{head}.SMOOTH_L1_BETA": _NOT_NEGATIVE for head in ("RPN", "ROI_BOX_HEAD")},
    "MODEL.RPN.LOSS_WEIGHT": _NOT_NEGATIVE,
    **{f"MODEL.RPN.{when}_NMS_TOPK_{where}": _COUNT for when in ("PRE", "POST") for where in ("TRAIN", "TEST")},
    "MODEL.RPN.NMS_THRESH": SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    **{f"MODEL.{head}.BATCH_SIZE_PER_IMAGE": _COUNT for head in ("RPN", "ROI_HEADS")},
    **{f"MODEL.{head}.POSITIVE_FRACTION": SHARE for head in ("RPN", "ROI_HEADS")},
    **{f"MODEL.{head}.IOU_THRESHOLDS": _OVERLAPS for head in ("RPN", "ROI_HEADS", "RETINANET")},
    **{f"MODEL.{head}.IOU_LABELS": between(-1, 1) for head in ("RPN", "ROI_HEADS", "RETINANET")},
    **{f"MODEL.ROI_{head}_HEAD.POOLER_RESOLUTION": _POOLED for head in ("BOX", "MASK", "KEYPOINT")},
    **{f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO": between(0, 100) for head in ("BOX", "MASK", "KEYPOINT")},
    **{f"MODEL.ROI_{head}_HEAD.NUM_CONV": between(0, 100) for head in ("BOX", "MASK")},
    **{f"MODEL.ROI_{head}_HEAD.CONV_DIM": _CHANNELS for head in ("BOX", "MASK")},
    "INPUT.MIN_SIZE_TRAIN": between(1, 2**15, sizes=_SOME),
    "INPUT.MAX_SIZE_TRAIN": _SIDE,
    "INPUT.MIN_SIZE_TEST": between(0, 2**15),  # Detectron2: 0 does not resize
    "INPUT.MAX_SIZE_TEST": _SIDE,
    "INPUT.RANDOM_SCALE": between(0.01, 100, sizes=(2, 2)),
    "INPUT.CROP.SIZE": above(0, sizes=(2, 2)),
    **{f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{where}": _COUNT for where in ("TRAIN", "TEST")},
    "DATALOADER.NUM_WORKERS": between(0, 1024),
    "DATALOADER.REPEAT_THRESHOLD": _NOT_NEGATIVE,
    "DATALOADER.RANDOM_SUBSET_RATIO": between(0, 1, open_low=True),
    "SOLVER.MAX_ITER": _COUNT,
    "SOLVER.BASE_LR": _POSITIVE,
    "SOLVER.BASE_LR_END": _NOT_NEGATIVE,
    "SOLVER.MOMENTUM": MOMENTUM,
    "SOLVER.WEIGHT_DECAY": _NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": _NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_BIAS": _NOT_NEGATIVE,
    "SOLVER.BIAS_LR_FACTOR": _NOT_NEGATIVE,
    "SOLVER.GAMMA": DECAY,
    "SOLVER.STEPS": _NOT_NEGATIVE,
    "SOLVER.NUM_DECAYS": _COUNT,
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": _NOT_NEGATIVE,
    "SOLVER.CHECKPOINT_PERIOD": _COUNT,
    "SOLVER.IMS_PER_BATCH": between(1, 2**16),
    "SOLVER.REFERENCE_WORLD_SIZE": _NOT_NEGATIVE,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _POSITIVE,
    "TEST.EVAL_PERIOD": _NOT_NEGATIVE,
    "TEST.KEYPOINT_OKS_SIGMAS": _POSITIVE,
    "TEST.DETECTIONS_PER_IMAGE": _COUNT,
    "TEST.AUG.MIN_SIZES": between(1, 2**15, sizes=_SOME),
    "TEST.AUG.MAX_SIZE": _SIDE,
    "TEST.PRECISE_BN.NUM_ITER": _COUNT,
    "VIS_PERIOD": _NOT_NEGATIVE,
    "SEED": between(-1, MAX_SEED),  # -1: another one each time
}

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d{1,4})?")


def check(cfg: Mapping[str, Any]) -> None:
    """Refuses a merged config that no engine could follow.

    Raises:
        ConfigError: one sentence with the key, its value and what it must be.
    """
    check_values(cfg, CHOICES, LIMITS)
    model, given = cfg["MODEL"], cfg["INPUT"]
    if not _DEVICE.fullmatch(model["DEVICE"]):
        raise ConfigError(f"MODEL.DEVICE is {short(model['DEVICE'])}; it must be cpu, cuda or cuda:0, cuda:1, ...")
    channels = 1 if given["FORMAT"] == "L" else 3
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(model[key]) != channels:
            raise ConfigError(f"MODEL.{key} is {short(model[key])}; INPUT.FORMAT {given['FORMAT']} needs {channels}")
    for head in ("RPN", "ROI_HEADS", "RETINANET"):
        overlaps, labels = model[head]["IOU_THRESHOLDS"], model[head]["IOU_LABELS"]
        if list(overlaps) != sorted(overlaps) or len(labels) != len(overlaps) + 1:
            raise ConfigError(
                f"MODEL.{head}.IOU_THRESHOLDS is {short(overlaps)} and IOU_LABELS {short(labels)}; thresholds must "
                "rise, and there must be one label more"
            )
    for key in ("SIZES", "ASPECT_RATIOS"):
        if not all(rows := model["ANCHOR_GENERATOR"][key]):
            raise ConfigError(f"MODEL.ANCHOR_GENERATOR.{key} is {short(rows)}; an empty list in it makes no anchor")
    if 0 in model["RPN"]["CONV_DIMS"]:
        raise ConfigError("MODEL.RPN.CONV_DIMS has a 0; give channels, or -1 for those of the features")
    if given["MIN_SIZE_TRAIN_SAMPLING"] == "range" and len(given["MIN_SIZE_TRAIN"]) != 2:
        sizes = short(given["MIN_SIZE_TRAIN"])
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN is {sizes}; INPUT.MIN_SIZE_TRAIN_SAMPLING range needs two of them")
    if given["RANDOM_SCALE"][0] > given["RANDOM_SCALE"][1]:
        raise ConfigError(f"INPUT.RANDOM_SCALE is {short(given['RANDOM_SCALE'])}; give the smaller scale first")
    heads, dense = model["ROI_HEADS"]["NAME"], model["ROI_DENSEPOSE_HEAD"]
    if heads == DENSEPOSE_HEADS and not model["DENSEPOSE_ON"]:
        raise ConfigError(f"MODEL.ROI_HEADS.NAME is {heads}, but MODEL.DENSEPOSE_ON is False; set it to True")
    if dense["HEATMAP_SIZE"] != 4 * dense["POOLER_RESOLUTION"]:
        raise ConfigError(
            f"MODEL.ROI_DENSEPOSE_HEAD.HEATMAP_SIZE is {dense['HEATMAP_SIZE']}; the head makes four times "
            f"POOLER_RESOLUTION ({dense['POOLER_RESOLUTION']}) of it: set it to {4 * dense['POOLER_RESOLUTION']}"
        )
    if cfg["SOLVER"]["NESTEROV"] and not cfg["SOLVER"]["MOMENTUM"]:
        raise ConfigError("SOLVER.NESTEROV is True with SOLVER.MOMENTUM 0; it needs a momentum")
    for key in ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.SPECS"):
        if "" in value_at(cfg, key):
            raise ConfigError(f"{key} is {short(value_at(cfg, key))}; a name in it is empty, remove it")
    if not cfg["OUTPUT_DIR"]:
        raise ConfigError("OUTPUT_DIR is empty; give a folder, . for this one")
