"""Shuffling BN on one device: statistics by group, and query and key groups that differ."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pretrain.encoders import base_encoder
from pretrain.moco import MoCo
from pretrain.shuffle import GroupBatchNorm2d, shuffle, unshuffle


def per_group_loop(norm: nn.BatchNorm2d, x: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output and running statistics of `groups` separate copies of `norm`, one after the other."""
    y = torch.empty_like(x)
    means, variances = [], []
    for g in range(groups):
        copy = nn.BatchNorm2d(norm.num_features).to(x.dtype)
        copy.load_state_dict(norm.state_dict())
        y[g::groups] = copy(x[g::groups])
        means.append(copy.running_mean)
        variances.append(copy.running_var)
    return y, torch.stack(means).mean(0), torch.stack(variances).mean(0)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_group_bn_equals_a_loop_over_groups(groups: int) -> None:
    torch.manual_seed(0)
    plain, grouped = nn.BatchNorm2d(5).double(), GroupBatchNorm2d(5, groups).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    grouped.load_state_dict(plain.state_dict())
    for step in range(3):
        x = torch.randn(12, 5, 3, 2, dtype=torch.float64) * 3 + 1
        want, mean, var = per_group_loop(grouped, x, groups)
        torch.testing.assert_close(grouped(x), want)
        torch.testing.assert_close(grouped.running_mean, mean)
        torch.testing.assert_close(grouped.running_var, var)
        assert grouped.num_batches_tracked == step + 1


def test_group_bn_has_the_gradient_of_the_loop() -> None:
    torch.manual_seed(0)
    norm = GroupBatchNorm2d(4, 2).double()
    x = torch.randn(6, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(6, 4, 2, 2, dtype=torch.float64)
    ours = torch.autograd.grad((norm(x) * scale).sum(), [x, norm.weight, norm.bias])
    plain = nn.BatchNorm2d(4).double()
    y = torch.stack([plain(x[g::2]) for g in range(2)], dim=1).flatten(0, 1)
    naive = torch.autograd.grad((y * scale).sum(), [x, plain.weight, plain.bias])
    for a, b in zip(ours, naive, strict=True):
        torch.testing.assert_close(a, b)


def test_group_bn_evaluates_like_plain_bn() -> None:
    norm = GroupBatchNorm2d(4, 2).eval()
    x = torch.randn(3, 4, 2, 2)  # 3 is no multiple of 2: groups do not matter
    torch.testing.assert_close(norm(x), nn.BatchNorm2d(4).eval()(x))


def test_group_bn_refuses_an_uneven_split() -> None:
    with pytest.raises(ValueError, match="5 images cannot be split into 2"):
        GroupBatchNorm2d(4, 2)(torch.randn(5, 4, 2, 2))


def test_unshuffle_undoes_shuffle() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3)
    shuffled, order = shuffle(x)
    assert not torch.equal(shuffled, x)
    assert torch.equal(unshuffle(shuffled, order), x)


class Counting(nn.Module):
    """An encoder whose BN sees the images themselves."""

    def __init__(self, num_classes: int, groups: int):
        super().__init__()
        self.bn = GroupBatchNorm2d(3, groups)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(x).flatten(1))


def bn_subsets(model: MoCo, groups: int) -> dict[str, set[frozenset[int]]]:
    """Which images share BN statistics in each encoder, for one step on images that carry their number."""
    subsets: dict[str, set[frozenset[int]]] = {}

    def record(encoder: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        numbers = inputs[0][:, 0, 0, 0].int().tolist()
        subsets[encoder] = {frozenset(numbers[g::groups]) for g in range(groups)}

    for encoder in ("encoder_q", "encoder_k"):
        model.get_submodule(f"{encoder}.bn").register_forward_pre_hook(partial(record, encoder))
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2).contiguous()
    model(x, x)
    return subsets


def test_query_and_key_statistics_come_from_different_subsets() -> None:
    torch.manual_seed(0)
    subsets = bn_subsets(MoCo(partial(Counting, groups=2), dim=4, K=8), groups=2)
    assert subsets["encoder_q"] != subsets["encoder_k"]
    assert all(frozenset().union(*parts) == frozenset(range(8)) for parts in subsets.values())
    fixed = bn_subsets(MoCo(partial(Counting, groups=2), dim=4, K=8, shuffle_bn=False), groups=2)
    assert fixed["encoder_q"] == fixed["encoder_k"]


@pytest.mark.parametrize("groups, shuffles, leaks", [(1, True, True), (4, False, True), (4, True, False)])
def test_only_groups_and_shuffle_together_hide_the_key(groups: int, shuffles: bool, leaks: bool) -> None:
    """Equal views through equal encoders: q.k is 1 exactly if query and key saw the same BN statistics."""
    torch.manual_seed(0)
    model = MoCo(base_encoder("resnet18", groups), dim=8, K=16, T=1.0, shuffle_bn=shuffles)
    x = torch.randn(16, 3, 32, 32)
    positives = model(x, x)[0][:, 0]
    assert bool((positives > 1 - 1e-4).all()) is leaks
