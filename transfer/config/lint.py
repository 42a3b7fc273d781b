"""Finds settings of a config that contradict the papers' protocol, its weights, its data or its own other keys.

An error makes the run mean something else than its file says; a warning names a departure that somebody may want.
Duplicate keys, missing bases, unknown keys and wrong types are refused before this, when the config is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.runtime.config import value_at
from transfer.config.basic_blocks import misfit
from transfer.config.support import ANY_WIDTH, DENSEPOSE_HEADS, DILATED_C5, FCN_16S, FPN, RESNET
from transfer.data.spec import nearest

ERROR, WARNING = "error", "warning"
BATCH, RATE = 16, 0.02  # the papers' mini-batch and its learning rate; the rate is linear in the batch
TRAINED_NORMS = ("BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "naiveSyncBN_N")
NORMS = ("", *TRAINED_NORMS, "FrozenBN", "GN", "LN")

# Key -> what may stand there: Detectron2's registries and this project's entries.
NAMES: Mapping[str, Collection[str]] = {
    "MODEL.META_ARCHITECTURE": (
        "GeneralizedRCNN", "ProposalNetwork", "SemanticSegmentor", "PanopticFPN", "RetinaNet",
    ),
    "MODEL.BACKBONE.NAME": (
        RESNET, ANY_WIDTH, FPN, "build_retinanet_resnet_fpn_backbone", DILATED_C5,
    ),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN", "RRPN", "PrecomputedProposals"),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator", "RotatedAnchorGenerator"),
    "MODEL.ROI_HEADS.NAME": (
        "Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads", "RROIHeads", "Res5ROIHeadsExtraNorm",
        DENSEPOSE_HEADS,
    ),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",),
    "MODEL.ROI_DENSEPOSE_HEAD.NAME": ("", "DensePoseV1ConvXHead", "DensePoseDeepLabHead"),
    "MODEL.SEM_SEG_HEAD.NAME": ("SemSegFPNHead", FCN_16S),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Holds one remark of the linter.

    Attributes:
        level: "error" or "warning".
        code: short name of the rule, e.g. "freeze-at".
        key: the config key at fault.
        message: what is wrong, with the value, and the remedy.
    """

    level: str
    code: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.level} [{self.code}] {self.key}: {self.message}"


def lint(
    cfg: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    names: Mapping[str, Collection[str]] = NAMES,
    rates: Sequence[float] = (RATE,),
) -> list[Finding]:
    """Finds everything that is wrong with a merged config.

    Args:
        facts: the converter's metadata of `MODEL.WEIGHTS`: depth, groups, width_per_group, stem_out_channels,
            res2_out_channels, channel_order ("RGB" or "BGR"), pixel_mean and pixel_std (three numbers in that order,
            range 0..255), stride_in_1x1. A fact that is None or absent is unknown and not checked. None stands for
            random weights.
        names: key -> the names that are allowed there.
        rates: the papers' learning rates for 16 images per batch.
    """
    return [
        *_names(cfg, names),
        *_norms(cfg),
        *_tuned_layers(cfg),
        *_dilation(cfg),
        *_basic_blocks(cfg),
        *(_mean_order(cfg) if (facts or {}).get("pixel_mean") is None else ()),
        *(_weights(cfg, facts) if facts is not None else ()),
        *_schedule(cfg),
        *_rate(cfg, rates),
        *_scale(cfg),
        *_subset(cfg),
    ]


def error(code: str, key: str, message: str) -> Finding:
    """Returns a finding about a setting that makes the run mean something else than its file says."""
    return Finding(ERROR, code, key, message)


def warning(code: str, key: str, message: str) -> Finding:
    """Returns a finding about a setting that somebody may want."""
    return Finding(WARNING, code, key, message)


def _names(cfg: Mapping[str, Any], names: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    for key, known in names.items():
        if (value := value_at(cfg, key)) not in known:
            hint = nearest(value, known) or f"; known are {', '.join(sorted(filter(None, known)))}"
            yield error("name", key, f"'{value}' is registered nowhere{hint}")


def _norms(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    keys = ["MODEL.RESNETS.NORM"] + ["MODEL.FPN.NORM"] * (cfg["MODEL"]["BACKBONE"]["NAME"] == FPN)
    for key in keys:
        norm = value_at(cfg, key)
        if norm not in NORMS:
            yield error("norm", key, f"'{norm}' is no kind of norm{nearest(norm, NORMS)}")
        elif norm == "SyncBN":
            yield warning(
                "sync-bn", key,
                f"in torch {torch.__version__} 'SyncBN' is torch's SyncBatchNorm, which needs GPUs (Detectron2's "
                "was the naive one up to torch 1.5 only); the reference trains with naiveSyncBN",
            )  # fmt: skip
        elif norm == "FrozenBN":
            yield warning(
                "frozen-bn",
                key,
                "'FrozenBN' is not tuned; the papers train every norm (but in LVIS' supervised baseline): set it to "
                "naiveSyncBN",
            )
    model = cfg["MODEL"]
    if len(keys) > 1 and not model["FPN"]["NORM"] and model["RESNETS"]["NORM"] in TRAINED_NORMS:
        yield warning(
            "fpn-norm", "MODEL.FPN.NORM",
            f"it is empty; the papers normalise new layers too, and without it training may end in NaN: set it to "
            f"{model['RESNETS']['NORM']}",
        )  # fmt: skip


def _tuned_layers(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    if (at := cfg["MODEL"]["BACKBONE"]["FREEZE_AT"]) != 0:
        frozen = ", ".join(("the stem", "res2", "res3", "res4", "res5")[:at])
        yield warning("freeze-at", "MODEL.BACKBONE.FREEZE_AT", f"{at} freezes {frozen}; the papers tune all layers: 0")


def _dilation(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    backbone, dilation = cfg["MODEL"]["BACKBONE"]["NAME"], cfg["MODEL"]["RESNETS"]["RES5_DILATION"]
    if backbone == DILATED_C5 and dilation != 2:
        yield error("dilation", "MODEL.RESNETS.RES5_DILATION", f"{dilation}, but {backbone} has a dilated conv5: 2")


def _basic_blocks(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    if (found := misfit(cfg)) is not None:
        yield error("basic-blocks", *found)


def _mean_order(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Tells by ImageNet's means, which differ enough by channel, in which channel order they were written."""
    order, mean = cfg["INPUT"]["FORMAT"], list(cfg["MODEL"]["PIXEL_MEAN"])
    if order in ("RGB", "BGR") and _close(mean, _IMAGENET_MEAN[::-1] if order == "RGB" else _IMAGENET_MEAN):
        yield error(
            "mean-order", "MODEL.PIXEL_MEAN",
            f"{mean} is in the order {order[::-1]}, but INPUT.FORMAT is {order}: set it to {mean[::-1]}",
        )  # fmt: skip


def _weights(cfg: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Finding]:
    resnet = cfg["MODEL"]["RESNETS"]
    shape = {
        "depth": "DEPTH", "groups": "NUM_GROUPS", "width_per_group": "WIDTH_PER_GROUP",
        "stem_out_channels": "STEM_OUT_CHANNELS", "res2_out_channels": "RES2_OUT_CHANNELS",
    }  # fmt: skip
    for name, key in shape.items():
        if (fact := facts.get(name)) is not None and fact != resnet[key]:
            what = f"{resnet[key]}, but the weights ({facts.get('arch', 'a ResNet')}) have {fact}"
            yield error("architecture", f"MODEL.RESNETS.{key}", f"{what}: set it to {fact}, or give other weights")
    stride = facts.get("stride_in_1x1")
    if stride is not None and resnet["DEPTH"] >= 50 and bool(stride) != bool(resnet["STRIDE_IN_1X1"]):
        where = "1x1 (MSRA's rule)" if stride else "3x3 (MoCo's and torchvision's rule)"
        yield error(
            "stride", "MODEL.RESNETS.STRIDE_IN_1X1",
            f"{resnet['STRIDE_IN_1X1']}, but the weights have the stride in the {where}: set it to {bool(stride)}",
        )  # fmt: skip
    order, trained = cfg["INPUT"]["FORMAT"], facts.get("channel_order")
    if trained is None:
        yield warning(
            "weights-facts", "MODEL.WEIGHTS",
            "the file does not say the channel order, mean and std that its weights were trained with: check "
            "INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD yourself",
        )  # fmt: skip
        return
    if trained != order:
        yield error(
            "channel-order", "INPUT.FORMAT",
            f"{order}, but the weights were trained on {trained}: set it to {trained}, with mean and std in that order",
        )  # fmt: skip
    for name, code in (("pixel_mean", "mean"), ("pixel_std", "std")):
        given, fact = list(cfg["MODEL"][name.upper()]), facts.get(name)
        # In the weights' own order it fits as well: the order alone is wrong then, which is said above.
        if fact is not None and not _close(given, fact) and (order == trained or not _close(given[::-1], fact)):
            yield error(
                code, f"MODEL.{name.upper()}", f"{given}, but the weights were trained with {trained} {list(fact)}"
                ": set it so"
            )  # fmt: skip


def _schedule(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    solver = cfg["SOLVER"]
    steps, end = list(solver["STEPS"]), solver["MAX_ITER"]
    if solver["LR_SCHEDULER_NAME"] == "WarmupMultiStepLR":
        if steps != sorted(set(steps)):
            yield error("steps", "SOLVER.STEPS", f"{tuple(steps)} must rise")
        if late := [step for step in steps if step >= end]:
            yield error(
                "steps", "SOLVER.STEPS",
                f"{tuple(late)} would never come, SOLVER.MAX_ITER is {end}: move the steps with it, or leave them out",
            )  # fmt: skip
    if solver["WARMUP_ITERS"] > end:
        yield error(
            "warm-up", "SOLVER.WARMUP_ITERS", f"{solver['WARMUP_ITERS']} is more than SOLVER.MAX_ITER {end}: shorten it"
        )


def _rate(cfg: Mapping[str, Any], rates: Sequence[float]) -> Iterator[Finding]:
    batch, rate = cfg["SOLVER"]["IMS_PER_BATCH"], cfg["SOLVER"]["BASE_LR"]
    expected = [paper * batch / BATCH for paper in rates]
    if all(abs(rate - papers) > 0.01 * papers for papers in expected):
        rule, given = (" or ".join(f"{value:g}" for value in values) for values in (rates, expected))
        yield warning(
            "learning-rate", "SOLVER.BASE_LR",
            f"{rate:g} for {batch} images per batch; the papers' rule ({rule} for {BATCH}, linear) gives {given}. "
            "For another batch than a config's let --auto-scale move rate, iterations, steps and warm-up together",
        )  # fmt: skip


def _scale(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    scale = tuple(cfg["INPUT"]["RANDOM_SCALE"])
    if cfg["MODEL"]["META_ARCHITECTURE"] != "SemanticSegmentor" and scale != (1.0, 1.0):
        yield warning("scale", "INPUT.RANDOM_SCALE", f"{scale} has no effect: only a SemanticSegmentor reads it")


def _subset(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    loader = cfg["DATALOADER"]
    ratio = loader["RANDOM_SUBSET_RATIO"]
    if (loader["SAMPLER_TRAIN"] == "RandomSubsetTrainingSampler") != (ratio != 1):
        yield error(
            "subset", "DATALOADER.RANDOM_SUBSET_RATIO",
            f"{ratio} goes with another SAMPLER_TRAIN than {loader['SAMPLER_TRAIN']}: set a share of the images "
            "between 0 and 1 with RandomSubsetTrainingSampler, and 1.0 with the others",
        )  # fmt: skip


_IMAGENET_MEAN = (123.675, 116.280, 103.530)  # RGB


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    """Returns whether values are equal up to the digits that people write."""
    return len(a) == len(b) and all(abs(x - y) <= 0.005 * abs(y) for x, y in zip(a, b, strict=True))
