"""Makes encoders: ResNets by name, with plain, grouped or synchronised batch normalisation, and their features."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from pretrain.runtime.config import ConfigError
from pretrain.shuffle import GroupBatchNorm2d


class WideResNet(resnet.ResNet):
    """A ResNet with `width` times the channels in every layer, including the stem and the features.

    This is the "2x / 4x wider" of arXiv:1911.05722, Table 1. torchvision's `wide_resnet50_2` is another network: it
    widens the 3x3 convolutions only (69M parameters instead of 94M). A width below 1, a multiple of 1/4, makes a
    small network for machines without a GPU, of bottlenecks or of basic blocks, which both engines can build.
    """

    def __init__(
        self,
        block: type[resnet.BasicBlock | resnet.Bottleneck],
        layers: list[int],
        width: float,
        num_classes: int = 1000,
        **kw: Any,
    ):
        self.width = width  # read by _make_layer, which super().__init__ calls
        super().__init__(block, layers, num_classes, **kw)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kw: Any) -> nn.Sequential:
        if not hasattr(self, "layer1"):  # the stem, before its weights are drawn
            self.inplanes = int(64 * self.width)
            self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(self.inplanes)
        return super()._make_layer(block, int(planes * self.width), *args, **kw)


_R50 = (resnet.Bottleneck, [3, 4, 6, 3])

ARCHITECTURES: dict[str, Callable[..., resnet.ResNet]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet50_w2x": partial(WideResNet, *_R50, width=2),
    "resnet50_w4x": partial(WideResNet, *_R50, width=4),
    "resnet50_w0.5x": partial(WideResNet, *_R50, width=0.5),
    "resnet50_w0.25x": partial(WideResNet, *_R50, width=0.25),
    "resnet18_w0.5x": partial(WideResNet, resnet.BasicBlock, [2, 2, 2, 2], width=0.5),
    "resnext50_32x8d": partial(resnet.ResNet, *_R50, groups=32, width_per_group=8),
}


def base_encoder(
    arch: str, bn_groups: int = 1, sync_bn: bool = False, key: str = "MODEL.ARCH"
) -> Callable[..., resnet.ResNet]:
    """Returns a function that makes an encoder: `base_encoder(arch)(num_classes=dim)` is a ResNet that ends in `fc`.

    Args:
        arch: a key of `ARCHITECTURES`.
        bn_groups: see `GroupBatchNorm2d`; parameter and buffer names do not depend on it.
        sync_bn: whether to compute the statistics over the batch of all processes (SyncBatchNorm; trains on GPUs only).
        key: the config key or option that gave `arch`, for errors.

    Raises:
        ConfigError: unknown `arch`; the nearest known name is suggested.
    """
    if arch not in ARCHITECTURES:
        nearest = difflib.get_close_matches(arch, ARCHITECTURES, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise ConfigError(f"{key} '{arch}' is not known; {hint}(known: {', '.join(ARCHITECTURES)})")
    norm: Callable[..., nn.Module] = nn.BatchNorm2d
    if sync_bn:
        norm = nn.SyncBatchNorm
    elif bn_groups > 1:
        norm = partial(GroupBatchNorm2d, num_groups=bn_groups)
    return partial(ARCHITECTURES[arch], norm_layer=norm)


def add_mlp_head(encoder: nn.Module) -> None:
    """Replaces `fc` by MoCo v2's head, (fc.0, ReLU, fc.2): fc.0 is the new layer, and fc.2 the old `fc`."""
    fc = encoder.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    encoder.fc = nn.Sequential(nn.Linear(fc.in_features, fc.in_features), nn.ReLU(), fc)


def unit_features(encoder: nn.Module, images: Tensor, amp: torch.dtype | None = None) -> Tensor:
    """Computes the features that are compared: (N, 3, H, W) -> (N, C), rows of length 1.

    Args:
        amp: lower precision for the encoder's own arithmetic (autocast), None for none. The features are returned in
            the precision of the encoder's parameters, so that logits and loss are never rounded to 8 or 11 bits.
    """
    with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
        features = encoder(images)
    return F.normalize(features.to(next(encoder.parameters()).dtype), dim=1)
