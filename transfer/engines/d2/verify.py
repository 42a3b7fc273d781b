"""Has Detectron2 verify a converted file: its checkpointer loads it, and its ResNet holds it and computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torch import nn

from transfer.config.support import ANY_WIDTH
from transfer.convert.architecture import AuditError
from transfer.convert.convert import PARITY_LIMIT
from transfer.convert.forward import detectron2_forward, relative_differences
from transfer.convert.read import read_weights
from transfer.engines.d2.heads import build_any_width_resnet_backbone


def verify(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Loads a converted trunk into Detectron2's own backbone through Detectron2's own checkpointer.

    A ResNet-18 or 34 whose width is not 64 is built from Detectron2's own blocks, since it has no such backbone.

    Args:
        metadata: see `transfer.convert.convert.metadata_of`.

    Returns:
        {"backbone keys matched": "318 of 318", "keys left": 0, "max relative difference": ...}.

    Raises:
        AuditError: a key of the backbone was not loaded, a key of the file was left, or the features differ.
    """
    model = nn.Module()
    model.backbone = _backbone(metadata).eval()
    before = {k: torch.full_like(v, -7) for k, v in model.state_dict().items()}  # what no trained tensor is made of
    model.load_state_dict(before)
    DetectionCheckpointer(model).load(str(path))
    weights, state = read_weights(path), model.backbone.state_dict()
    counted = any(k.endswith("num_batches_tracked") for k in weights)
    keys = [k for k in state if counted or not k.endswith("num_batches_tracked")]
    lost = [k for k in keys if k not in weights or not torch.equal(state[k], weights[k])]
    left = [k for k in weights if k not in state]
    if lost or left:
        raise AuditError(
            f"Detectron2's checkpointer left {len(lost)} of {len(keys)} backbone keys as they were and {len(left)} "
            f"keys of the file unused ({', '.join([*lost, *left][:3])}); nothing was written"
        )
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = model.backbone(x)
        ours = detectron2_forward(weights, x, bool(metadata["stride_in_1x1"]))
    gaps = relative_differences(theirs, ours)
    for stage, gap in gaps.items():
        if not gap <= PARITY_LIMIT:
            raise AuditError(f"Detectron2's features of {stage} differ by {gap:.3g} of their size; nothing was written")
    return {
        "backbone keys matched": f"{len(keys)} of {len(keys)}",
        "keys left": 0,
        "max relative difference": max(gaps.values()),
    }


def _backbone(metadata: Mapping[str, Any]) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = ANY_WIDTH
    resnets = cfg.MODEL.RESNETS
    resnets.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    resnets.NORM = "BN"
    resnets.DEPTH = metadata["depth"]
    resnets.NUM_GROUPS = metadata["groups"]
    resnets.WIDTH_PER_GROUP = metadata["width_per_group"]
    resnets.STEM_OUT_CHANNELS = metadata["stem_out_channels"]
    resnets.RES2_OUT_CHANNELS = metadata["res2_out_channels"]
    resnets.STRIDE_IN_1X1 = bool(metadata["stride_in_1x1"])
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return build_any_width_resnet_backbone(cfg, ShapeSpec(channels=3))
