"""Encoders: torchvision ResNets by name, with plain or grouped batch normalisation."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models import resnet

from pretrain.runtime.config import ConfigError
from pretrain.shuffle import GroupBatchNorm2d

ARCHITECTURES: dict[str, Callable[..., resnet.ResNet]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
}


def base_encoder(arch: str, bn_groups: int = 1) -> Callable[..., resnet.ResNet]:
    """What `MoCo` calls twice: `base_encoder(arch)(num_classes=dim)` is a ResNet that ends in a linear layer `fc`.

    Args:
        arch: a key of `ARCHITECTURES`.
        bn_groups: see `GroupBatchNorm2d`; parameter and buffer names do not depend on it.

    Raises:
        ConfigError: unknown `arch`; the nearest known name is suggested.
    """
    if arch not in ARCHITECTURES:
        nearest = difflib.get_close_matches(arch, ARCHITECTURES, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise ConfigError(f"MODEL.ARCH '{arch}' is not known; {hint}(known: {', '.join(ARCHITECTURES)})")
    norm = nn.BatchNorm2d if bn_groups == 1 else partial(GroupBatchNorm2d, num_groups=bn_groups)
    return partial(ARCHITECTURES[arch], norm_layer=norm)
