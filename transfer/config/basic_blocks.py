"""Finds ResNets of basic blocks (ResNet-18 and 34) that Detectron2 cannot build; the other engine refuses them, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.runtime.config import ConfigError
from transfer.config.support import ANY_WIDTH, DILATED_C5, FPN, RESNET

DEPTHS, WIDTH = (18, 34), 64  # channels of res2, whose network alone Detectron2's own builders make
_KNOWN = (RESNET, ANY_WIDTH, FPN, "build_retinanet_resnet_fpn_backbone", DILATED_C5)


def misfit(cfg: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns the key and a sentence about the first setting that rules out a ResNet of basic blocks; None if all fit.

    Other depths, and backbones that the user registered with Detectron2, are not checked.
    """
    name, r = cfg["MODEL"]["BACKBONE"]["NAME"], cfg["MODEL"]["RESNETS"]
    if r["DEPTH"] not in DEPTHS or name not in _KNOWN:
        return None
    if name == DILATED_C5:
        why = "has no dilated blocks, so that it does not go with"
        return "MODEL.RESNETS.DEPTH", f"{r['DEPTH']} {why} {name}: set it to 50"
    network, width = f"ResNet-{r['DEPTH']}", r["RES2_OUT_CHANNELS"]
    for key, only in (("NUM_GROUPS", 1), ("RES5_DILATION", 1), ("DEFORM_ON_PER_STAGE", [False] * 4)):
        if r[key] != only:
            why = "its blocks have neither groups nor dilated nor deformable convolutions"
            return f"MODEL.RESNETS.{key}", f"{r[key]} does not go with {network}: {why}; set it to {only}"
    if r["WIDTH_PER_GROUP"] != 64:
        why = "has no effect on basic blocks; their width is RES2_OUT_CHANNELS"
        return "MODEL.RESNETS.WIDTH_PER_GROUP", f"{r['WIDTH_PER_GROUP']} {why}: leave it at 64"
    if (width == WIDTH or name == ANY_WIDTH) and (r["STEM_OUT_CHANNELS"] != width or width % 16):
        why = f"but the {network} of {name} has as many in its stem as in res2, a multiple of 16"
        return (
            "MODEL.RESNETS.STEM_OUT_CHANNELS",
            f"{r['STEM_OUT_CHANNELS']} (RES2_OUT_CHANNELS {width}), {why}: set both",
        )
    if width == WIDTH or name == ANY_WIDTH:
        return None
    if name == RESNET:
        other = f"for another width MODEL.BACKBONE.NAME to {ANY_WIDTH}"
    else:
        other = "take a ResNet-50, which comes in every width"
    return (
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        f"{width}, but the {network} of {name} has {WIDTH}, as in Detectron2: set it to {WIDTH}, or {other}",
    )


def check_basic_blocks(cfg: Mapping[str, Any]) -> None:
    """Raises ConfigError with what `misfit` finds."""
    if (found := misfit(cfg)) is not None:
        raise ConfigError(": ".join(found))
