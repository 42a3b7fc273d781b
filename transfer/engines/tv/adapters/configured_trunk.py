"""Builds the ResNet that a config describes, the same for every task."""

from __future__ import annotations

from fvcore.common.config import CfgNode
from torchvision.models import resnet

from transfer.engines.tv.backbone import build_trunk
from transfer.engines.tv.norm import norm_layer


def configured_trunk(cfg: CfgNode, device: str) -> resnet.ResNet:
    """Builds the trunk of MODEL.RESNETS, randomly initialised, on the CPU; see `backbone.build_trunk`."""
    r = cfg.MODEL.RESNETS
    return build_trunk(
        norm_layer(r.NORM, device),
        depth=r.DEPTH,
        groups=r.NUM_GROUPS,
        width_per_group=r.WIDTH_PER_GROUP,
        stem_out_channels=r.STEM_OUT_CHANNELS,
        res2_out_channels=r.RES2_OUT_CHANNELS,
        stride_in_1x1=r.STRIDE_IN_1X1,
        dilation=r.RES5_DILATION,
    )
