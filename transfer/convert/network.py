"""Makes torchvision's ResNet for an architecture of any depth, groups and width that the papers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models import resnet

from transfer.convert.architecture import Architecture


def build(architecture: Architecture, norm_layer: Callable[[int], nn.Module], stride_in_1x1: bool) -> resnet.ResNet:
    """Makes the network for `Architecture.build`, which explains the arguments."""
    block = resnet.BasicBlock if architecture.depth < 50 else resnet.Bottleneck
    if architecture.wider != 1 and architecture.depth >= 50:
        block = type("WideBottleneck", (resnet.Bottleneck,), {"expansion": int(4 * architecture.wider)})
    model = _WithStem(
        architecture.stem_out_channels, block, architecture.layers(), groups=architecture.groups,
        width_per_group=architecture.width_per_group, norm_layer=norm_layer,
    )  # fmt: skip
    if stride_in_1x1:
        for module in model.modules():
            if isinstance(module, resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return model


class _WithStem(resnet.ResNet):
    """torchvision's ResNet with any number of channels in its stem, which torchvision has as a constant.

    Basic blocks become wider or narrower by the same factor as the stem; bottlenecks have arguments of their own for
    that.
    """

    fc: nn.Linear

    def __init__(self, stem: int, *args: Any, **kwargs: Any):
        self._stem = stem  # read by _make_layer, which super().__init__ calls
        super().__init__(*args, **kwargs)
        if self.fc.in_features != self.inplanes:
            self.fc = nn.Linear(self.inplanes, self.fc.out_features)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if not hasattr(self, "layer1") and self._stem != 64:
            self.inplanes = self._stem
            self.conv1 = nn.Conv2d(3, self._stem, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(self._stem)
        if block is resnet.BasicBlock:
            planes = planes * self._stem // 64
        return super()._make_layer(block, planes, *args, **kwargs)
