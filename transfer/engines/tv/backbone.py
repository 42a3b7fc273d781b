"""Builds ResNet trunks of the papers' detectors: up to conv4, with a dilated conv5, or under a feature pyramid.

Shape shorthand: N images; H, W height and width of the padded batch. Feature maps are named as in Detectron2: res2 to
res5 of the ResNet, p2 to p6 of the pyramid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from pretrain.runtime.config import ConfigError
from transfer.convert.architecture import DEPTHS, Architecture
from transfer.engines.tv.norm import freeze

STAGES = ("res2", "res3", "res4", "res5")
Norm = Callable[[int], nn.Module]


class Backbone(nn.Module):
    """Turns (N, 3, H, W) images into feature maps by name.

    Attributes:
        channels, strides: number of channels and stride of each feature map, by name.
        multiple: number of which H and W must be multiples (Detectron2's size_divisibility).
    """

    channels: dict[str, int]
    strides: dict[str, int]
    multiple = 1


class Stages(Backbone):
    """Runs a ResNet from its stem to the last stage that is asked for. Names are torchvision's.

    Shapes: (N, 3, H, W) -> {"res4": (N, C, ceil(H/16), ceil(W/16)), ...}.
    """

    def __init__(self, trunk: resnet.ResNet, out_features: Sequence[str], freeze_at: int):
        """
        Args:
            trunk: a whole ResNet, of which the needed stages are taken over.
            out_features: names from `STAGES`.
            freeze_at: 0 trains everything, 1 freezes the stem, 2 also res2 (layer1), and so on.
        """
        super().__init__()
        self.out_features = tuple(out_features)
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        if freeze_at >= 1:
            freeze(self.conv1)
            self.bn1 = freeze(self.bn1)
        self.names = STAGES[: 1 + max(map(STAGES.index, out_features))]
        self.channels, self.strides = {}, {}
        stride = 4
        for number, name in enumerate(self.names, 1):
            layer = getattr(trunk, f"layer{number}")
            self.add_module(f"layer{number}", freeze(layer) if freeze_at > number else layer)
            stride *= layer[0].stride
            self.strides[name], self.channels[name] = stride, _out_channels(layer)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = OrderedDict()
        for number, name in enumerate(self.names, 1):
            x = getattr(self, f"layer{number}")(x)
            if name in self.out_features:
                features[name] = x
        return features


class DilatedC5(Backbone):
    """Implements R50-dilated-C5 (MoCo, appendix A.1): conv5 at stride 16, a 3x3 convolution with BN to 512 channels.

    Stock Detectron2's DC5 has no such convolution. The ReLU after it is this project's choice: the paper names only
    the norm.

    Shapes: (N, 3, H, W) -> {"res5": (N, channels, ceil(H/16), ceil(W/16))}.
    """

    def __init__(self, bottom_up: Stages, channels: int, norm: Norm):
        super().__init__()
        self.bottom_up = bottom_up
        convolution = nn.Conv2d(bottom_up.channels["res5"], channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.reduce = nn.Sequential(convolution, norm(channels))
        self.channels, self.strides = {"res5": channels}, {"res5": bottom_up.strides["res5"]}

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(res5=self.reduce(self.bottom_up(x)["res5"]).relu())


class Pyramid(Backbone):
    """Builds a feature pyramid (FPN) on res2 to res5; p6 is a subsampled p5.

    Shapes: (N, 3, H, W) with H and W multiples of 32 -> {"p2": (N, channels, H/4, W/4), ..., "p6": (.., H/64, W/64)}.
    """

    multiple = 32

    def __init__(self, bottom_up: Stages, channels: int, norm: Norm | None):
        """
        Args:
            norm: norm after each lateral and output convolution, which then has no bias; None gives bias and no norm.
        """
        super().__init__()
        self.bottom_up = bottom_up
        widths = [bottom_up.channels[name] for name in bottom_up.names]
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelMaxPool(), norm_layer=norm)
        self.strides = {f"p{level}": 2**level for level in range(2, 7)}
        self.channels = dict.fromkeys(self.strides, channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(zip(self.strides, self.fpn(self.bottom_up(x)).values(), strict=True))


def build_trunk(
    norm: Norm,
    *,
    depth: int,
    groups: int,
    width_per_group: int,
    stem_out_channels: int,
    res2_out_channels: int,
    stride_in_1x1: bool,
    dilation: int,
) -> resnet.ResNet:
    """Builds a ResNet with Detectron2's random initialisation (He, fan-out); arguments are named as in MODEL.RESNETS.

    Raises:
        ConfigError: no ResNet has this depth or these widths.
    """
    if depth not in DEPTHS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH {depth}: choose one of {', '.join(map(str, DEPTHS))}")
    if depth < 50 and (groups, width_per_group) != (1, 64):
        raise ConfigError(f"ResNet-{depth} has no groups and no bottlenecks: set NUM_GROUPS 1 and WIDTH_PER_GROUP 64")
    architecture = Architecture(depth, groups, width_per_group, wider=max(16, stem_out_channels // 16 * 16) / 64)
    wanted = (architecture.stem_out_channels, architecture.res2_out_channels)
    if (stem_out_channels, res2_out_channels) != wanted:
        raise ConfigError(
            f"MODEL.RESNETS.STEM_OUT_CHANNELS {stem_out_channels} and RES2_OUT_CHANNELS {res2_out_channels} are no "
            f"ResNet-{depth}; the stem has a multiple of 16 channels, and res2 then {wanted[1]}"
        )
    if depth < 50 and dilation != 1:
        raise ConfigError(f"ResNet-{depth} is not dilated, as in Detectron2: set MODEL.RESNETS.RES5_DILATION 1")
    trunk = architecture.build(norm, stride_in_1x1)
    if dilation == 2:
        dilate(trunk.layer4)
    return trunk


def dilate(layer: nn.Module) -> None:
    """Gives conv5 stride 1, and dilation 2 in all of its 3x3 convolutions, as Detectron2's RES5_DILATION 2 does."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
    layer[0].stride = 1  # type: ignore[index]


def _out_channels(layer: nn.Module) -> int:
    convolutions = [module for module in layer[-1].modules() if isinstance(module, nn.Conv2d)]  # type: ignore[index]
    return int(convolutions[-1].out_channels)


def zero_padded(images: Sequence[Tensor], multiple: int) -> Tensor:
    """Stacks n images (3, h, w) into (n, 3, H, W), zero-padded at the right and the bottom to common multiples."""
    H, W = (-(-max(int(image.shape[side]) for image in images) // multiple) * multiple for side in (1, 2))
    batch = images[0].new_zeros((len(images), 3, H, W))
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]].copy_(image)
    return batch
