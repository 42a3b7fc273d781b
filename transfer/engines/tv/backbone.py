"""The C4 trunk and its conv5, from torchvision's ResNet.

Shape shorthand: N images; H, W height and width of the padded batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torchvision.models import resnet

from pretrain.runtime.config import ConfigError
from transfer.convert.architecture import DEPTHS, Architecture
from transfer.engines.tv.norm import freeze

STRIDE = 16


class C4Backbone(nn.Module):
    """Stem to conv4 of a ResNet (paper: "the backbone ends at conv4"). Names are torchvision's.

    Shapes: (N, 3, H, W) -> {"res4": (N, C, ceil(H/16), ceil(W/16))}, C = 1024 (256 for ResNet-18/34).
    """

    def __init__(self, trunk: resnet.ResNet, freeze_at: int):
        """
        Args:
            trunk: a whole ResNet; its first stages are taken over.
            freeze_at: 0 trains everything, 1 freezes the stem, 2 also res2 (layer1), and so on.
        """
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3 = trunk.layer1, trunk.layer2, trunk.layer3
        self.out_channels = trunk.inplanes // 2  # conv5 doubles the channels of conv4
        if freeze_at >= 1:
            freeze(self.conv1)
            self.bn1 = freeze(self.bn1)
        for stage in range(2, min(freeze_at, 4) + 1):
            freeze(getattr(self, f"layer{stage - 1}"))

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return OrderedDict(res4=x)


class Res5BoxHead(nn.Module):
    """conv5 on every RoI, the extra norm of the MoCo papers, global average pooling.

    "the box prediction head consists of the conv5 stage (including global pooling) followed by a BN layer"
    (MoCo, appendix A.1); as in the reference the norm stands before the pooling, which is linear.

    Shapes: (R, C, P, P) RoI features -> (R, 2C).
    """

    def __init__(self, layer4: nn.Module, channels: int, norm: Callable[[int], nn.Module] | None):
        super().__init__()
        self.layer4 = layer4
        self.norm = norm(channels) if norm is not None else nn.Identity()
        self.out_channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer4(x)).mean(dim=(2, 3))


def build_trunk(r: CfgNode, norm: Callable[[int], nn.Module]) -> resnet.ResNet:
    """The randomly initialised ResNet (He initialisation, fan-out, as Detectron2's) that MODEL.RESNETS describes.

    Raises:
        ConfigError: a depth, or widths, that no ResNet has.
    """
    if r.DEPTH not in DEPTHS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH {r.DEPTH}: choose one of {', '.join(map(str, DEPTHS))}")
    if r.DEPTH < 50 and (r.NUM_GROUPS, r.WIDTH_PER_GROUP, r.STEM_OUT_CHANNELS) != (1, 64, 64):
        raise ConfigError(
            f"ResNet-{r.DEPTH} comes in one width: set NUM_GROUPS 1, WIDTH_PER_GROUP 64 and STEM_OUT_CHANNELS 64"
        )
    trunk = Architecture(r.DEPTH, r.NUM_GROUPS, r.WIDTH_PER_GROUP, wider=r.STEM_OUT_CHANNELS // 64)
    if (r.STEM_OUT_CHANNELS, r.RES2_OUT_CHANNELS) != (trunk.stem_out_channels, trunk.res2_out_channels):
        raise ConfigError(
            f"MODEL.RESNETS.STEM_OUT_CHANNELS {r.STEM_OUT_CHANNELS} and RES2_OUT_CHANNELS {r.RES2_OUT_CHANNELS} are no "
            f"ResNet-{r.DEPTH}; the stem has a multiple of 64 channels, and res2 then {trunk.res2_out_channels}"
        )
    return trunk.build(norm, r.STRIDE_IN_1X1)
