"""Encoders by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.encoders import ARCHITECTURES, add_mlp_head, base_encoder, unit_features
from pretrain.runtime.config import ConfigError
from pretrain.shuffle import GroupBatchNorm2d


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ends_in_fc_of_the_given_size(arch: str) -> None:
    with torch.device("meta"):
        encoder = base_encoder(arch)(num_classes=7)
    assert encoder.fc.out_features == 7


@pytest.mark.parametrize(
    "arch, millions",
    [
        ("resnet18", 11.2),
        ("resnet34", 21.3),
        ("resnet50", 23.5),
        ("resnet101", 42.5),
        ("resnext50_32x8d", 46.0),
        ("resnet50_w2x", 93.9),
        ("resnet50_w4x", 375.4),
        ("resnet50_w0.5x", 5.9),
        ("resnet50_w0.25x", 1.5),
        ("resnet18_w0.5x", 2.8),
    ],
)
def test_parameters_of_the_trunk(arch: str, millions: float) -> None:
    """arXiv:1911.05722, Table 1 prints 24M (R50), 46M (RX50), 94M (R50w2x) and 375M (R50w4x), without the head."""
    with torch.device("meta"):
        encoder = base_encoder(arch)(num_classes=7)
    count = sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("fc."))
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("arch", "width"),
    [("resnet50_w2x", 2), ("resnet50_w0.5x", 0.5), ("resnet50_w0.25x", 0.25), ("resnet18_w0.5x", 0.5)],
)
def test_wide_encoder_is_wide_throughout(arch: str, width: float) -> None:
    plain, wide = (base_encoder(arch)(num_classes=3) for arch in (arch.split("_")[0], arch))
    assert list(plain.state_dict()) == list(wide.state_dict())
    for (name, a), b in zip(plain.named_parameters(), wide.parameters(), strict=True):
        whole = (width, width) if a.ndim > 1 else (width,)
        given = {"conv1.weight": (width, 1), "fc.weight": (1, width), "fc.bias": (1,)}.get(name, whole)
        assert b.shape[: len(given)] == tuple(x * y for x, y in zip(a.shape, given, strict=False)), name
    with torch.no_grad():
        assert wide.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    std = (2 / (64 * width * 49)) ** 0.5  # of He's initialisation, fan out
    assert wide.conv1.weight.std().item() == pytest.approx(std, rel=0.05)


def test_mlp_head_is_as_wide_as_the_features() -> None:
    with torch.device("meta"):
        encoder = base_encoder("resnet50_w2x")(num_classes=128)
        add_mlp_head(encoder)
    assert [tuple(p.shape) for p in encoder.fc.parameters()] == [(4096, 4096), (4096,), (128, 4096), (128,)]


def test_synchronised_norm_keeps_the_names() -> None:
    with torch.device("meta"):
        plain, synced = base_encoder("resnet18")(num_classes=7), base_encoder("resnet18", sync_bn=True)(num_classes=7)
    assert list(plain.state_dict()) == list(synced.state_dict())
    assert isinstance(synced.bn1, nn.SyncBatchNorm)


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_unit_features_leave_in_full_precision(amp: torch.dtype | None) -> None:
    torch.manual_seed(0)
    encoder = base_encoder("resnet18", 2)(num_classes=8)
    seen = []
    encoder.fc.register_forward_hook(lambda *a: seen.append(a[-1].dtype))
    features = unit_features(encoder, torch.randn(4, 3, 32, 32), amp)
    assert seen == [amp or torch.float32] and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_bn_groups_change_every_norm_but_no_name() -> None:
    with torch.device("meta"):
        plain, grouped = base_encoder("resnet18")(num_classes=7), base_encoder("resnet18", 4)(num_classes=7)
    assert list(plain.state_dict()) == list(grouped.state_dict())
    norms = [m for m in grouped.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(isinstance(m, GroupBatchNorm2d) and m.num_groups == 4 for m in norms)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'resnet52' is not known; did you mean resnet50\?"):
        base_encoder("resnet52")
