"""Processes on GPUs, by NCCL: what they exchange and train is what as many do on the CPU, by gloo."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.loop import train_step
from pretrain.moco import MoCo
from pretrain.optimizers import SGD
from pretrain.runtime import dist
from pretrain.shuffle import shuffle, unshuffle
from tests.gpu.conftest import Measured
from tests.pretrain.test_resume import Small
from tests.processes import run_in_processes
from transfer.engines.tv.norm import norm_layer

pytestmark = pytest.mark.gpu

WORLDS = sorted({1, max(1, torch.cuda.device_count())})
N = 4  # images of a process


def exchanged(kind: str) -> dict[str, Any]:
    """What a process has after three steps of MoCo, and after each kind of exchange; all on the CPU."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(kind, dist.rank()) if kind == "cuda" else torch.device(kind)
    world, mine = dist.world_size(), slice(dist.rank() * N, (dist.rank() + 1) * N)
    torch.manual_seed(0)
    model = MoCo(partial(Small, norm_layer=nn.BatchNorm2d), dim=8, K=4 * N * world, m=0.9, T=0.2, mlp=True).to(device)
    norm = norm_layer("SyncBN", kind)(3).to(device)
    views = torch.randn(3, 2, N * world, 3, 32, 32)
    parallel = DistributedDataParallel(
        model, device_ids=[device.index] if kind == "cuda" else None, broadcast_buffers=False
    )
    optimizer = SGD(model.parameters(), 0.03)
    losses = [train_step(parallel, optimizer, *step[:, mine].to(device))[0] for step in views]

    x = views[0, 0, mine].to(device)
    shuffled, order = shuffle(x)
    parts = [torch.empty_like(x) for _ in range(world)]
    torch.distributed.all_gather(parts, x)  # also with one process, where ours returns what it is given
    total = x.clone()
    torch.distributed.all_reduce(total)
    numbers = dist.broadcast(torch.arange(5, device=device) + dist.rank())
    y = x.clone().requires_grad_()
    dist.all_gather_with_gradient(y).square().sum().backward()
    normalised = norm(x)
    assert {t.device for t in (shuffled, order, numbers, normalised, *losses)} == {device}
    assert torch.equal(unshuffle(shuffled, order), x) and torch.equal(torch.cat(parts), dist.all_gather(x))
    dist.barrier()
    found: dict[str, Tensor] = {
        "losses": torch.stack(losses),
        "queue": model.queue,
        "pointer": model.queue_ptr,
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "order": order,
        "shuffled": shuffled,
        "gathered": torch.cat(parts),
        "total": total,
        "broadcast": numbers,
        "gradient": y.grad if y.grad is not None else torch.tensor(torch.nan),
        "SyncBN": normalised.detach(),
        "its statistics": torch.stack([norm.running_mean, norm.running_var]),
    }
    return {name: value.cpu() for name, value in found.items()} | {"objects": dist.gather_objects(dist.rank())}


@pytest.mark.parametrize("world", WORLDS)
def test_processes_on_gpus(world: int, tmp_path: Path, gpu: torch.device, measured: Measured) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = run_in_processes(exchanged, tmp_path / "here", "cpu", world_size=world)
    nccl = torch.distributed.get_default_backend_for_device(gpu)
    there = run_in_processes(exchanged, tmp_path / "there", gpu.type, world_size=world, backend=nccl)
    for rank, (a, b) in enumerate(zip(here, there, strict=True)):
        assert a.pop("objects") == b.pop("objects") == list(range(world)) and a.keys() == b.keys()
        for name in ("pointer", "order", "shuffled", "gathered", "broadcast"):
            assert torch.equal(a.pop(name), b[name]), name
        assert torch.equal(there[0]["queue"], b["queue"]), "the queues of the processes differ"
        gaps = {name: float((value - b[name]).abs().max()) for name, value in a.items()}
        for name, gap in gaps.items():
            measured.at_most(f"process {rank} of {world}, NCCL and gloo: {name}", gap, 1e-4)
