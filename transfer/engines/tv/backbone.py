"""The C4 trunk and its conv5, from torchvision's ResNet.

Shape shorthand: N images; H, W height and width of the padded batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import resnet

from pretrain.runtime.config import ConfigError
from transfer.engines.tv.norm import freeze

BLOCKS: dict[int, tuple[type[resnet.BasicBlock] | type[resnet.Bottleneck], list[int]]] = {
    18: (resnet.BasicBlock, [2, 2, 2, 2]),
    34: (resnet.BasicBlock, [3, 4, 6, 3]),
    50: (resnet.Bottleneck, [3, 4, 6, 3]),
    101: (resnet.Bottleneck, [3, 4, 23, 3]),
    152: (resnet.Bottleneck, [3, 8, 36, 3]),
}
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


def build_trunk(
    depth: int, norm: Callable[[int], nn.Module], stride_in_1x1: bool, groups: int = 1, width_per_group: int = 64
) -> resnet.ResNet:
    """A randomly initialised ResNet (He initialisation, fan-out, as Detectron2's).

    Args:
        stride_in_1x1: put the stride of a bottleneck into its first 1x1 convolution (MSRA), not the 3x3 (torchvision).

    Raises:
        ConfigError: a depth that torchvision does not have, or groups on ResNet-18/34.
    """
    if depth not in BLOCKS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH {depth}: choose one of {', '.join(map(str, BLOCKS))}")
    block, layers = BLOCKS[depth]
    if block is resnet.BasicBlock and (groups, width_per_group) != (1, 64):
        raise ConfigError(f"ResNet-{depth} has no groups: set NUM_GROUPS 1 and WIDTH_PER_GROUP 64")
    trunk = resnet.ResNet(block, layers, groups=groups, width_per_group=width_per_group, norm_layer=norm)
    if stride_in_1x1:
        for module in trunk.modules():
            if isinstance(module, resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return trunk
