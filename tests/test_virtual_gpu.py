"""The virtual GPU itself: where its tensors are, what it refuses to mix, what it counts as a wait."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.virtual_gpu import virtual_gpu


def test_tensors_stay_where_they_are() -> None:
    with virtual_gpu() as gpu:
        x = torch.arange(6.0, device="cuda").view(2, 3)
        y = (x + 1)[:, 1:].contiguous()
        z = x.new_zeros(2), torch.zeros_like(x), torch.full((2,), 1.0, device=x.device), copy.deepcopy(x)
        assert all(t.device == torch.device("cuda:0") and t.is_cuda for t in (x, y, *z))
        x[0] = 5
        assert not gpu.waits
        assert x.tolist() == [[5, 5, 5], [3, 4, 5]] and y.cpu().tolist() == [[2, 3], [5, 6]]
        assert gpu.waits == {"tolist": 1, "copy to the host": 1}


@pytest.mark.parametrize(
    ("mix", "refused"),
    [
        (lambda here, there: here + there, True),
        (lambda here, there: torch.cat([there, here]), True),
        (lambda here, there: there.add_(here), True),
        (lambda here, there: nn.functional.linear(there, here), True),
        (lambda here, there: there * here.sum(), False),
        (lambda here, there: there[torch.tensor([1, 0])], False),
        (lambda here, there: there.copy_(here), False),
    ],
)
def test_what_cuda_refuses_to_mix(mix: Callable[[Tensor, Tensor], Tensor], refused: bool) -> None:
    with virtual_gpu():
        here, there = torch.eye(3), torch.eye(3, device="cuda")
        if refused:
            with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
                mix(here, there)
        else:
            assert mix(here, there).is_cuda
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            there.numpy()


@pytest.mark.parametrize(
    ("read", "waits"),
    [
        (lambda x: float(x.sum()), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: torch.where(x > 0)[0], 1),
        (lambda x: x.masked_fill(x > 0, 1.0), 0),
        (lambda x: x.__setitem__(x > 0, 1.0), 0),
        (lambda x: torch.where(x > 0, x, 0.0), 0),
        (lambda x: x.sort().values, 0),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: torch.ones(3).to(x.device), 1),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), 0),
        (lambda x: x.to(torch.float64), 0),
    ],
)
def test_waits(read: Callable[[Tensor], object], waits: int) -> None:
    with virtual_gpu() as gpu:
        x = torch.ones(4, device="cuda")
        read(x)
    assert sum(gpu.waits.values()) == waits


def test_a_module_trains_there_as_on_the_cpu() -> None:
    def train(device: str) -> Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).to(
            device
        )
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(2, 3, 8, 8).to(device)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()]).cpu()

    here = train("cpu")
    with virtual_gpu():
        torch.testing.assert_close(train("cuda"), here)
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "virtual GPU"
