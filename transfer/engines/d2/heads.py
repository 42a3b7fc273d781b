"""The papers' C4 head for Detectron2."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.layers import get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from fvcore.common.config import CfgNode
from torch import nn


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5ROIHeads with a batch norm after res5 (MoCo, appendix A.1), for ResNet-18 and 34 too.

    The extra norm has the kind of `MODEL.RESNETS.NORM` and is called `res5.norm`, as in the reference.
    """

    @configurable
    def __init__(self, *, extra_norm: str, **kwargs: Any):
        super().__init__(**kwargs)
        if extra_norm:
            self.res5.add_module("norm", get_norm(extra_norm, self.res5[-1].out_channels))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        arguments = super().from_config(cfg, input_shape)
        r = cfg.MODEL.RESNETS
        arguments["extra_norm"] = r.NORM
        if r.DEPTH in (18, 34):  # Res5ROIHeads knows bottlenecks only
            channels = r.RES2_OUT_CHANNELS * 8
            blocks = {18: 2, 34: 3}[r.DEPTH]
            arguments["res5"] = nn.Sequential(
                *ResNet.make_stage(
                    BasicBlock,
                    blocks,
                    stride_per_block=[2] + [1] * (blocks - 1),
                    in_channels=channels // 2,
                    out_channels=channels,
                    norm=r.NORM,
                )
            )
        return arguments


def register_heads() -> None:
    """Makes the head known to Detectron2 by the name that the YAMLs use; calling it again does nothing."""
    if Res5ROIHeadsExtraNorm.__name__ not in ROI_HEADS_REGISTRY:
        ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
