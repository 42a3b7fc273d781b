"""What stock Detectron2 lacks of the papers' detectors: the norm of the C4 head, the convolution behind conv5."""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet, build_resnet_backbone
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from fvcore.common.config import CfgNode
from torch import Tensor, nn


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


class DilatedC5(Backbone):
    """A ResNet with a dilated conv5, then a 3x3 convolution with BN and ReLU to fewer channels (MoCo, appendix A.1).

    Shapes: (N, 3, H, W) -> {"res5": (N, channels, H/16, W/16)}.
    """

    def __init__(self, bottom_up: Backbone, channels: int, norm: str):
        super().__init__()
        self.bottom_up, self.channels = bottom_up, channels
        width = bottom_up.output_shape()["res5"].channels
        self.reduce = Conv2d(width, channels, kernel_size=3, padding=1, bias=False, norm=get_norm(norm, channels))
        weight_init.c2_msra_fill(self.reduce)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"res5": self.reduce(self.bottom_up(x)["res5"]).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res5": ShapeSpec(channels=self.channels, stride=self.bottom_up.output_shape()["res5"].stride)}


def build_dilated_c5_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DilatedC5:
    """The value of MODEL.BACKBONE.NAME that the DC5 configs have."""
    r = cfg.MODEL.RESNETS
    return DilatedC5(build_resnet_backbone(cfg, input_shape), r.RES5_REDUCED_CHANNELS, r.NORM)


def register_heads() -> None:
    """Makes both known to Detectron2 by the names that the YAMLs use; calling it again does nothing."""
    for registry, part in ((ROI_HEADS_REGISTRY, Res5ROIHeadsExtraNorm), (BACKBONE_REGISTRY, build_dilated_c5_backbone)):
        if part.__name__ not in registry:
            registry.register(part)
