"""Synchronised batch norm in two gloo processes against plain batch norm of the whole batch in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from tests.processes import run_in_processes
from transfer.engines.tv import loop
from transfer.engines.tv.norm import NaiveSyncBatchNorm2d, SyncBatchNorm2d, norm_layer

KINDS = {"SyncBN": SyncBatchNorm2d, "naiveSyncBN": NaiveSyncBatchNorm2d}


def data(sizes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (N, 3, 4, 5), and weights that make a scalar of the output."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(sum(sizes), 3, 4, 5, generator=generator) + 1
    return x, torch.randn(x.shape, generator=generator)


def layer(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    norm = kind(3)
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    nn.init.uniform_(norm.bias, -1, 1, generator=torch.Generator().manual_seed(2))
    return norm


def outcome(norm: nn.BatchNorm2d, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * weights).sum().backward()
    return [out.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


def part(kind: str, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    x, weights = data(sizes)
    mine = slice(sum(sizes[: dist.rank()]), sum(sizes[: dist.rank() + 1]))
    return outcome(layer(KINDS[kind]), x[mine], weights[mine])


@pytest.mark.parametrize(
    ("kind", "sizes"), [("SyncBN", (2, 2)), ("SyncBN", (3, 1)), ("SyncBN", (4, 0)), ("naiveSyncBN", (2, 2))], ids=str
)
def test_two_processes_are_one_with_the_whole_batch(kind: str, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """Values and gradients; for naiveSyncBN, whose processes count the same whatever they hold, equal parts only."""
    whole = outcome(layer(nn.BatchNorm2d), *data(sizes))
    parts = run_in_processes(part, tmp_path, kind, sizes)
    for i in (0, 1):  # outputs and gradients of the inputs: each process has its own
        assert torch.allclose(torch.cat([p[i] for p in parts]), whole[i], atol=1e-5)
    for i in (2, 3):  # gradients of the parameters: summed, as data parallel training does
        assert torch.allclose(parts[0][i] + parts[1][i], whole[i], atol=1e-4)
    for p in parts:
        assert torch.allclose(p[4], whole[4], atol=1e-6)
        if kind == "SyncBN":
            assert torch.allclose(p[5], whole[5], atol=1e-5)
        else:  # Detectron2's keeps the biased variance
            values = data(sizes)[0].transpose(0, 1).flatten(1)
            assert torch.allclose(p[5], 0.9 + 0.1 * values.var(dim=1, correction=0), atol=1e-5)


def test_naive_sync_bn_of_unequal_parts_weighs_processes_equally(tmp_path: Path) -> None:
    (mean, *_), _ = (p[4:] for p in run_in_processes(part, tmp_path, "naiveSyncBN", (3, 1)))
    x, _ = data((3, 1))
    expected = (x[:3].mean(dim=(0, 2, 3)) + x[3:].mean(dim=(0, 2, 3))) / 2
    assert torch.allclose(mean, 0.1 * expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS.values())
def test_in_one_process_and_in_evaluation_it_is_plain(kind: type[nn.BatchNorm2d]) -> None:
    a, b = layer(kind), layer(nn.BatchNorm2d)
    x = torch.randn(3, 3, 5, 5)
    assert torch.equal(a(x), b(x)) and a.state_dict().keys() == b.state_dict().keys()
    assert torch.equal(a.eval()(x), b.eval()(x))


def test_kinds_by_name_and_device() -> None:
    assert norm_layer("SyncBN", "cuda") is nn.SyncBatchNorm and norm_layer("SyncBN", "cpu") is SyncBatchNorm2d
    with pytest.raises(ConfigError, match="unknown norm 'GN'"):
        norm_layer("GN", "cpu")


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(3))


def precise(batches: list[list[int]]) -> list[torch.Tensor]:
    """Statistics after precise BN over these batches (numbers of images) of this process."""
    x, _ = data((8,))
    model = Small()
    loop.precise_bn(model, iter([x[numbers] for numbers in batches]), len(batches))
    return [model[0].running_mean, model[0].running_var]


def precise_part(parts: list[list[list[int]]]) -> list[torch.Tensor]:
    return precise(parts[dist.rank()])


def test_precise_bn_is_that_of_all_processes_batches(tmp_path: Path) -> None:
    parts = [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    expected = precise(parts[0] + parts[1])
    for found in run_in_processes(precise_part, tmp_path, parts):
        assert torch.allclose(found[0], expected[0], atol=1e-6) and torch.allclose(found[1], expected[1], atol=1e-5)
