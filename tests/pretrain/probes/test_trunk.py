"""Trunks: read whole from every layout or refused, frozen, and found out when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.encoders import ARCHITECTURES, add_mlp_head, base_encoder
from pretrain.probes.trunk import PREFIXES, FrozenTrunk, TrunkChangedError, fingerprint, load_trunk, pooled
from pretrain.runtime import checkpoint
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from tests.pretrain.checkpoints import trained_resnet18, trunk_of, write


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_layout_is_read_whole(prefix: str, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    network, arch = load_trunk(write(tmp_path / "x.pth", prefix), "" if prefix else "resnet18")
    assert arch == "resnet18" and torch.equal(torch.get_rng_state(), before)
    expected = trunk_of(trained_resnet18())
    assert trunk_of(network).keys() == expected.keys() and len(expected) == 120
    assert all(torch.equal(value, expected[name]) for name, value in trunk_of(network).items())


def test_features_are_the_globally_pooled_ones(images: torch.Tensor) -> None:
    network = trained_resnet18()
    seen: list[torch.Tensor] = []
    network.avgpool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trunk = FrozenTrunk(network)
    features = trunk(images)
    assert features.shape == (2, trunk.dim) == (2, 512) and not features.requires_grad
    torch.testing.assert_close(features, seen[0].mean((2, 3)))


def test_files_from_before_batch_counters(tmp_path: Path) -> None:
    state = {k: v for k, v in trained_resnet18().state_dict().items() if not k.endswith("num_batches_tracked")}
    checkpoint.save(state, tmp_path / "old.pth")
    assert load_trunk(tmp_path / "old.pth", "resnet18")
    del state["bn1.running_var"]
    checkpoint.save(state, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match="not a complete resnet18 .*: bn1.running_var is missing. Check MODEL"):
        load_trunk(tmp_path / "old.pth", "resnet18")


def test_what_is_not_exactly_a_trunk(tmp_path: Path) -> None:
    good = checkpoint.load(write(tmp_path / "good.pth"))

    def broken(name: str, value: torch.Tensor | None) -> Path:
        state = dict(good["state_dict"])
        state["module.encoder_q." + name] = value
        if value is None:
            del state["module.encoder_q." + name]
        checkpoint.save({**good, "state_dict": state}, tmp_path / "bad.pth")
        return tmp_path / "bad.pth"

    for name, value, message in [
        ("layer4.1.bn2.num_batches_tracked", None, "layer4.1.bn2.num_batches_tracked is missing"),
        ("layer4.1.se.weight", torch.zeros(1), "layer4.1.se.weight is not in resnet18"),
        ("bn1.bias", torch.zeros(3), r"bn1.bias is \(3,\), resnet18's \(64,\)"),
    ]:
        with pytest.raises(CheckpointError, match=f"not a complete resnet18 .120 tensors.: {message}. Check"):
            load_trunk(broken(name, value))
    with pytest.raises(CheckpointError, match="not a complete resnet50 .* more. Check MODEL.ARCH"):
        load_trunk(tmp_path / "good.pth", "resnet50")
    with pytest.raises(ConfigError, match="does not say its architecture; give MODEL.ARCH"):
        load_trunk(write(tmp_path / "plain.pth", ""))
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        load_trunk(tmp_path / "good.pth", "resnet81")
    for content in ({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, [1], {"state_dict": 3}):
        checkpoint.save(content, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match="holds no trunk: none of module.encoder_q.conv1.weight, "):
            load_trunk(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_trunk(tmp_path / "gone.pth")


def test_training_mode_does_not_reach_a_frozen_trunk(images: torch.Tensor) -> None:
    trunk = FrozenTrunk(trained_resnet18())
    nn.Sequential(trunk).train()
    trunk(images)
    trunk.verify()
    assert not any(module.training for module in trunk.modules())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


@pytest.mark.parametrize("what", ["statistics", "weight", "last bit"])
def test_a_trunk_that_changed_is_found_out(what: str, images: torch.Tensor) -> None:
    trunk = FrozenTrunk(trained_resnet18())
    if what == "statistics":
        trunk.network.train()  # past the guard
        trunk(images)
    elif what == "weight":
        trunk.network.get_parameter("layer4.1.conv2.weight").data[0, 0, 0, 0] += 1
    else:
        bits = trunk.network.get_buffer("layer1.0.bn1.running_var").view(torch.int32)
        bits[0] += 1
    with pytest.raises(TrunkChangedError, match="the frozen trunk has changed .SHA-256"):
        trunk.verify()


def test_fingerprint_is_of_values_not_of_layout() -> None:
    network = trained_resnet18()
    plain = fingerprint(network)
    assert fingerprint(network.to(memory_format=torch.channels_last)) == plain
    assert fingerprint(network.double()) != plain


@pytest.mark.parametrize("mlp", [False, True])
def test_an_encoder_in_training_is_lent_and_given_back(mlp: bool, images: torch.Tensor) -> None:
    encoder = base_encoder("resnet18", bn_groups=2)(num_classes=8)
    if mlp:
        add_mlp_head(encoder)
    encoder.layer1.eval()  # a mixture of modes must survive
    modes, before, head = [m.training for m in encoder.modules()], fingerprint(encoder), encoder.fc
    with pytest.raises(KeyboardInterrupt), pooled(encoder) as trunk:
        assert trunk(images).shape == (2, 512) and not trunk(images).requires_grad
        torch.testing.assert_close(trunk(images)[:1], trunk(images[:1]))  # no batch statistics
        raise KeyboardInterrupt
    assert [m.training for m in encoder.modules()] == modes and encoder.fc is head
    assert fingerprint(encoder) == before and all(p.requires_grad for p in encoder.parameters())


def test_every_architecture_has_a_trunk() -> None:
    for name, make in ARCHITECTURES.items():
        with torch.device("meta"):
            assert isinstance(make(num_classes=1).fc, nn.Linear), name
