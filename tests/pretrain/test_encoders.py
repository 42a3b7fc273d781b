"""Encoders by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.encoders import ARCHITECTURES, base_encoder
from pretrain.runtime.config import ConfigError
from pretrain.shuffle import GroupBatchNorm2d


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ends_in_fc_of_the_given_size(arch: str) -> None:
    with torch.device("meta"):
        encoder = base_encoder(arch)(num_classes=7)
    assert encoder.fc.out_features == 7


def test_bn_groups_change_every_norm_but_no_name() -> None:
    with torch.device("meta"):
        plain, grouped = base_encoder("resnet18")(num_classes=7), base_encoder("resnet18", 4)(num_classes=7)
    assert list(plain.state_dict()) == list(grouped.state_dict())
    norms = [m for m in grouped.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(isinstance(m, GroupBatchNorm2d) and m.num_groups == 4 for m in norms)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'resnet52' is not known; did you mean resnet50\?"):
        base_encoder("resnet52")
