"""Lists what the torchvision engine does with every key: it honours it, refuses it, or says that it has no effect.

Nothing is ignored silently. Detectron2 honours all of its own keys; this table is about the other engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pretrain.runtime.config import ConfigError, dotted_keys, value_at
from transfer.config.defaults import get_cfg

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Support:
    """Holds one entry: its status, and the reason `why` for a refusal or for having no effect.

    `status` is "honoured", "refused" or "no effect". A honoured key may accept only some values (`accepts`), or may be
    read by some detectors only: `reader` tells whether a config's detector is one of them, and `idle` says why the key
    has no effect on the others. A refused key accepts only its default.
    """

    status: str
    why: str = ""
    accepts: Callable[[Any], bool] | None = None
    reader: Callable[[Mapping[str, Any]], bool] | None = None
    idle: str = ""


HONOURED = Support("honoured")
RESNET, FPN, DILATED_C5 = "build_resnet_backbone", "build_resnet_fpn_backbone", "build_dilated_c5_backbone"
ANY_WIDTH = "build_any_width_resnet_backbone"  # as RESNET, and ResNet-18 and 34 of another width too
FCN_16S = "FCN16sHead"
DENSEPOSE_HEADS = "DensePoseROIHeads"


def _only(*values: Any, why: str) -> Support:
    return Support("honoured", why, lambda value: value in values)


def _refused(why: str) -> Support:
    return Support("refused", why)


def _no_effect(why: str) -> Support:
    return Support("no effect", why)


def _read_by(reader: Callable[[Mapping[str, Any]], bool], idle: str, entry: Support = HONOURED) -> Support:
    return replace(entry, reader=reader, idle=idle)


def _has_masks(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["MODEL"]["MASK_ON"])


def _has_keypoints(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["MODEL"]["KEYPOINT_ON"])


def _has_pyramid(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["MODEL"]["BACKBONE"]["NAME"] == FPN)


def _has_dilated_c5(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["MODEL"]["BACKBONE"]["NAME"] == DILATED_C5)


def _has_hidden_layers(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["MODEL"]["ROI_HEADS"]["NAME"] == "StandardROIHeads")


def _has_mask_pooler(cfg: Mapping[str, Any]) -> bool:
    return _has_masks(cfg) and _has_hidden_layers(cfg)


def _repeats(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["DATALOADER"]["SAMPLER_TRAIN"] == "RepeatFactorTrainingSampler")


def _samples_a_share(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["DATALOADER"]["SAMPLER_TRAIN"] == "RandomSubsetTrainingSampler")


def _mixes(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["SOLVER"]["AMP"]["ENABLED"])


def _mask(entry: Support = HONOURED) -> Support:
    return _read_by(_has_masks, "there is no mask head while MODEL.MASK_ON is False", entry)


def _keypoint(entry: Support = HONOURED) -> Support:
    return _read_by(_has_keypoints, "there is no keypoint head while MODEL.KEYPOINT_ON is False", entry)


def _hidden(entry: Support = HONOURED) -> Support:
    return _read_by(_has_hidden_layers, "the C4 box head is res5; it has no fc or conv layers of its own", entry)


def _pyramid(entry: Support = HONOURED) -> Support:
    return _read_by(_has_pyramid, "this backbone has no feature pyramid", entry)


def _mask_pooler(entry: Support = HONOURED) -> Support:
    return _read_by(
        _has_mask_pooler, "masks come with StandardROIHeads and MASK_ON, or share the box head's RoIs", entry
    )


def _repeated() -> Support:
    return _read_by(_repeats, "belongs to DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler")


_OTHER_TASK = _refused("belongs to a task that no engine of this version does")
_DEFORM = _refused("deformable convolutions are not part of the papers' detectors; use Detectron2")
_PROPOSALS = _refused("precomputed proposals are not supported; proposals come from the RPN")
_FED = _refused("the papers classify by softmax; federated loss and sigmoid classification are not supported")
_NORMS = _only("BN", "SyncBN", "naiveSyncBN", "FrozenBN", why="these are the papers' norms")
_NO_CONV = "the papers' heads are two hidden layers; 4conv1fc is another detector"
_NO_NORM = "the papers' heads have no norm: SyncBN is on the backbone and on FPN only"

# Longest prefix wins; a key that ends in ".*" stands for a whole branch.
TABLE: Mapping[str, Support] = {
    "VERSION": _only(2, why="only config version 2 exists here"),
    "MODEL.DEVICE": HONOURED,
    "MODEL.META_ARCHITECTURE": _only("GeneralizedRCNN", why="the papers' detectors are two-stage"),
    "MODEL.WEIGHTS": HONOURED,
    "MODEL.PIXEL_MEAN": HONOURED,
    "MODEL.PIXEL_STD": HONOURED,
    "MODEL.MASK_ON": HONOURED,
    "MODEL.KEYPOINT_ON": HONOURED,
    "MODEL.LOAD_PROPOSALS": _PROPOSALS,
    "MODEL.BACKBONE.NAME": _only(RESNET, ANY_WIDTH, FPN, DILATED_C5, why="these are the papers' backbones"),
    "MODEL.BACKBONE.FREEZE_AT": _only(0, 1, 2, 3, 4, why="0 tunes all layers, 1 freezes the stem, 2 also res2, ..."),
    "MODEL.RESNETS.DEPTH": _only(18, 34, 50, 101, 152, why="these are the depths that torchvision has"),
    "MODEL.RESNETS.OUT_FEATURES": HONOURED,
    "MODEL.RESNETS.NUM_GROUPS": HONOURED,
    "MODEL.RESNETS.WIDTH_PER_GROUP": HONOURED,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": HONOURED,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": HONOURED,
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.RESNETS.STRIDE_IN_1X1": HONOURED,
    "MODEL.RESNETS.RES5_DILATION": _only(1, 2, why="2 is that of the DC5 detector"),
    "MODEL.RESNETS.RES5_REDUCED_CHANNELS": _read_by(_has_dilated_c5, f"belongs to MODEL.BACKBONE.NAME {DILATED_C5}"),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": _DEFORM,
    "MODEL.RESNETS.DEFORM_MODULATED": _DEFORM,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _DEFORM,
    "MODEL.FPN.*": _pyramid(),
    "MODEL.FPN.NORM": _pyramid(_only("", "BN", "SyncBN", "naiveSyncBN", "FrozenBN", why="these are the papers' norms")),
    "MODEL.FPN.FUSE_TYPE": _pyramid(_only("sum", why="levels are summed")),
    "MODEL.ANCHOR_GENERATOR.NAME": _only("DefaultAnchorGenerator", why="rotated anchors are not supported"),
    "MODEL.ANCHOR_GENERATOR.SIZES": HONOURED,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": HONOURED,
    "MODEL.ANCHOR_GENERATOR.ANGLES": _no_effect("anchors are axis-aligned"),
    "MODEL.ANCHOR_GENERATOR.OFFSET": HONOURED,
    "MODEL.PROPOSAL_GENERATOR.NAME": _only("RPN", why="proposals come from the RPN"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": HONOURED,
    "MODEL.RPN.*": HONOURED,
    "MODEL.RPN.HEAD_NAME": _only("StandardRPNHead", why="the papers use the standard head"),
    "MODEL.RPN.BOUNDARY_THRESH": _only(-1, why="anchors that cross the image border are kept, as in the papers"),
    "MODEL.RPN.IOU_LABELS": _only([0, -1, 1], (0, -1, 1), why="background, ignored, foreground"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _only("smooth_l1", why="the papers use (smooth) L1"),
    "MODEL.RPN.CONV_DIMS": _only([-1], (-1,), why="one 3x3 convolution that keeps the channels"),
    "MODEL.ROI_HEADS.*": HONOURED,
    "MODEL.ROI_HEADS.NAME": _only(
        "Res5ROIHeads", "Res5ROIHeadsExtraNorm", "StandardROIHeads", why="these are the papers' heads"
    ),
    "MODEL.ROI_HEADS.IOU_LABELS": _only([0, 1], (0, 1), why="background, foreground"),
    "MODEL.ROI_BOX_HEAD.*": HONOURED,
    "MODEL.ROI_BOX_HEAD.NAME": _hidden(_only("FastRCNNConvFCHead", why="the papers' box head")),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _only("smooth_l1", why="the papers use (smooth) L1"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _only("ROIAlignV2", why="aligned RoIAlign, as the papers' Detectron2 configs"),
    "MODEL.ROI_BOX_HEAD.NUM_FC": _hidden(Support("honoured", "a box head has a hidden layer", lambda n: n > 0)),
    "MODEL.ROI_BOX_HEAD.FC_DIM": _hidden(),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": _hidden(_only(0, why=_NO_CONV)),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": _no_effect("there are no convolutions in the box head"),
    "MODEL.ROI_BOX_HEAD.NORM": _hidden(_only("", why=_NO_NORM)),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": _refused("the papers regress a box per class; use Detectron2"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": _refused("the mask head of the papers trains on proposals"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": _FED,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": _FED,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": _FED,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": _FED,
    "MODEL.ROI_BOX_CASCADE_HEAD.*": _OTHER_TASK,
    "MODEL.ROI_MASK_HEAD.*": _mask(),
    "MODEL.ROI_MASK_HEAD.NAME": _mask(_only("MaskRCNNConvUpsampleHead", why="the papers' mask head")),
    "MODEL.ROI_MASK_HEAD.NORM": _mask(_only("", why=_NO_NORM)),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": _mask(_only(False, why="the papers predict a mask per class")),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _mask(_only("ROIAlignV2", why="aligned RoIAlign, as for boxes")),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": _mask_pooler(),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": _mask_pooler(),
    "MODEL.ROI_KEYPOINT_HEAD.*": _keypoint(),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": _keypoint(_only("KRCNNConvDeconvUpsampleHead", why="the papers' keypoint head")),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": _keypoint(_only("ROIAlignV2", why="aligned RoIAlign, as for boxes")),
    "MODEL.DENSEPOSE_ON": _only(False, why="DensePose is trained on Detectron2 alone; use --engine detectron2"),
    "MODEL.ROI_DENSEPOSE_HEAD.*": _no_effect("belongs to MODEL.DENSEPOSE_ON, which is Detectron2's alone"),
    "MODEL.SEM_SEG_HEAD.*": _no_effect("belongs to MODEL.META_ARCHITECTURE SemanticSegmentor"),
    "MODEL.PANOPTIC_FPN.*": _OTHER_TASK,
    "MODEL.RETINANET.*": _OTHER_TASK,
    "INPUT.FORMAT": _only("RGB", "BGR", why="images are read as three 8-bit channels"),
    "INPUT.MIN_SIZE_TRAIN": HONOURED,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _only("choice", "range", why="these are Detectron2's two ways"),
    "INPUT.MAX_SIZE_TRAIN": HONOURED,
    "INPUT.MIN_SIZE_TEST": HONOURED,
    "INPUT.MAX_SIZE_TEST": HONOURED,
    "INPUT.RANDOM_FLIP": _only("horizontal", "none", why="the papers flip horizontally"),
    "INPUT.RANDOM_SCALE": _no_effect("belongs to MODEL.META_ARCHITECTURE SemanticSegmentor"),
    "INPUT.CROP.*": _refused("the papers' detectors train on whole images; use Detectron2"),
    "INPUT.MASK_FORMAT": _mask(_only("polygon", "bitmask", why="these are Detectron2's two ways")),
    "DATASETS.TRAIN": HONOURED,
    "DATASETS.TEST": HONOURED,
    "DATASETS.SPECS": HONOURED,
    "DATASETS.PROPOSAL_FILES_TRAIN": _PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _PROPOSALS,
    "DATASETS.PROPOSAL_FILES_TEST": _PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _PROPOSALS,
    "DATALOADER.NUM_WORKERS": HONOURED,
    "DATALOADER.ASPECT_RATIO_GROUPING": HONOURED,
    "DATALOADER.SAMPLER_TRAIN": _only(
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        why="images come alike, those of rare classes more often, or a share of them",
    ),
    "DATALOADER.REPEAT_THRESHOLD": _repeated(),
    "DATALOADER.REPEAT_SQRT": _repeated(),
    "DATALOADER.RANDOM_SUBSET_RATIO": _read_by(
        _samples_a_share, "belongs to DATALOADER.SAMPLER_TRAIN RandomSubsetTrainingSampler"
    ),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": HONOURED,
    "SOLVER.*": HONOURED,
    "SOLVER.AMP.PRECISION": _read_by(_mixes, "belongs to SOLVER.AMP.ENABLED True"),
    "SOLVER.LR_SCHEDULER_NAME": _only("WarmupMultiStepLR", "WarmupCosineLR", why="step and cosine schedules"),
    "SOLVER.NUM_DECAYS": _no_effect("belongs to WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": _only("linear", "constant", why="these are Detectron2's two ways"),
    "SOLVER.RESCALE_INTERVAL": _refused("steps count from iteration 0, warm-up included; use Detectron2"),
    "SOLVER.REFERENCE_WORLD_SIZE": _refused("configs are never rewritten; set batch, rate and steps yourself"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _only("value", "norm", why="these are Detectron2's two ways"),
    "TEST.EXPECTED_RESULTS": _no_effect("results go to result.json; compare them there"),
    "TEST.EVAL_PERIOD": HONOURED,
    "TEST.KEYPOINT_OKS_SIGMAS": _keypoint(),
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


def lookup(key: str, table: Mapping[str, Support] = TABLE) -> Support:
    """Returns the entry of a dotted key: its own, or else that of the nearest enclosing branch.

    Raises:
        KeyError: the table has no entry, which a test rules out for every key of the defaults.
    """
    if key in table:
        return table[key]
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        branch = ".".join(parts[:end]) + ".*"
        if branch in table:
            return table[branch]
    raise KeyError(key)


def check(cfg: Mapping[str, Any], task: Mapping[str, Support] = MappingProxyType({})) -> list[str]:
    """Checks a merged config against the table.

    Args:
        task: the entries of the config's task, which take precedence over those of the detectors of boxes and masks.

    Returns:
        A sentence for every key that was set away from its default but has no effect.

    Raises:
        ConfigError: settings are refused; the message gives all of them at once, each with its reason.
    """
    defaults, table = get_cfg(), {**TABLE, **task}
    refused, idle = [], []
    for key in dotted_keys(defaults):
        value, default, entry = value_at(cfg, key), value_at(defaults, key), lookup(key, table)
        changed = _plain(value) != _plain(default)
        if entry.reader is not None and not entry.reader(cfg):
            entry = _no_effect(entry.idle)
        if entry.status == "refused" and changed or entry.accepts is not None and not entry.accepts(value):
            refused.append(f"{key} = {value!r}: {entry.why}")
        elif entry.status == "no effect" and changed:
            idle.append(f"{key} = {value!r} has no effect on the torchvision engine: {entry.why}")
    if cfg["MODEL"]["META_ARCHITECTURE"] == "GeneralizedRCNN":
        refused += _misfits(cfg)
    if refused:
        raise ConfigError("the torchvision engine refuses:\n  " + "\n  ".join(refused))
    return idle


def _misfits(cfg: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each contradiction: a feature map that the backbone does not make, or a head not take."""
    model = cfg["MODEL"]
    resnet, heads = model["RESNETS"], model["ROI_HEADS"]
    stages = ("res2", "res3", "res4", "res5")
    wanted = {FPN: stages, DILATED_C5: ("res5",)}.get(model["BACKBONE"]["NAME"])
    found = []
    if wanted and tuple(resnet["OUT_FEATURES"]) != wanted:
        found.append(f"MODEL.RESNETS.OUT_FEATURES = {resnet['OUT_FEATURES']!r}: this backbone takes {list(wanted)}")
    if _has_pyramid(cfg) and tuple(model["FPN"]["IN_FEATURES"]) != stages:
        found.append(f"MODEL.FPN.IN_FEATURES = {model['FPN']['IN_FEATURES']!r}: the pyramid takes {list(stages)}")
    made = ("p2", "p3", "p4", "p5", "p6") if _has_pyramid(cfg) else tuple(resnet["OUT_FEATURES"])
    for key in ("RPN", "ROI_HEADS"):
        if not model[key]["IN_FEATURES"] or not set(model[key]["IN_FEATURES"]) <= set(made):
            found.append(f"MODEL.{key}.IN_FEATURES = {model[key]['IN_FEATURES']!r}: the backbone makes {list(made)}")
    if heads["NAME"].startswith("Res5") and list(heads["IN_FEATURES"]) != ["res4"]:
        found.append(f"MODEL.ROI_HEADS.IN_FEATURES = {heads['IN_FEATURES']!r}: {heads['NAME']} runs res5 on ['res4']")
    return found


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
