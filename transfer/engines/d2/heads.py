"""Adds what stock Detectron2 lacks: the C4 head's norm, the convolution after conv5, ResNet-18 and 34 of any width."""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet, build_resnet_backbone
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from transfer.config.basic_blocks import WIDTH, check_basic_blocks

_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # per stage; deeper ResNets are of bottlenecks


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Adds a batch norm after res5 to Res5ROIHeads (MoCo, appendix A.1); works with ResNet-18 and 34 too.

    The extra norm is of the kind that `MODEL.RESNETS.NORM` names and is called `res5.norm`, as in the reference.
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
        if r.DEPTH in _BASIC_BLOCKS:  # Res5ROIHeads knows bottlenecks only
            arguments["res5"] = nn.Sequential(*_basic_stage(cfg, 3))
        return arguments


class DilatedC5(Backbone):
    """Follows a ResNet with dilated conv5 by a 3x3 convolution (BN, ReLU) to fewer channels (MoCo, appendix A.1).

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
    """Builds the backbone that the DC5 configs name in MODEL.BACKBONE.NAME."""
    r = cfg.MODEL.RESNETS
    return DilatedC5(build_resnet_backbone(cfg, input_shape), r.RES5_REDUCED_CHANNELS, r.NORM)


def build_any_width_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds as `build_resnet_backbone` does, but also ResNet-18 and 34 whose res2 does not have 64 channels.

    Raises:
        ConfigError: the config asks for groups, dilation or deformable convolutions, which basic blocks lack.
    """
    r = cfg.MODEL.RESNETS
    if r.DEPTH not in _BASIC_BLOCKS or r.RES2_OUT_CHANNELS == WIDTH:
        return build_resnet_backbone(cfg, input_shape)
    check_basic_blocks(cfg)
    stem = BasicStem(in_channels=input_shape.channels, out_channels=r.STEM_OUT_CHANNELS, norm=r.NORM)
    stages = [_basic_stage(cfg, number) for number in range(4)]
    return ResNet(stem, stages, out_features=r.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _basic_stage(cfg: CfgNode, number: int) -> list[nn.Module]:
    """Builds one stage of ResNet-18 or 34, from res2 (`number` 0) to res5; each has twice the channels of the last."""
    r = cfg.MODEL.RESNETS
    blocks, width = _BASIC_BLOCKS[r.DEPTH][number], r.RES2_OUT_CHANNELS * 2**number
    stage: list[nn.Module] = ResNet.make_stage(
        BasicBlock,
        blocks,
        stride_per_block=[2 if number else 1] + [1] * (blocks - 1),
        in_channels=width // 2 if number else r.STEM_OUT_CHANNELS,
        out_channels=width,
        norm=r.NORM,
    )
    return stage


def register_heads() -> None:
    """Registers these parts with Detectron2 under the names that the YAMLs use; a second call does nothing."""
    for part in (build_dilated_c5_backbone, build_any_width_resnet_backbone):
        if part.__name__ not in BACKBONE_REGISTRY:
            BACKBONE_REGISTRY.register(part)
    if Res5ROIHeadsExtraNorm.__name__ not in ROI_HEADS_REGISTRY:
        ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
