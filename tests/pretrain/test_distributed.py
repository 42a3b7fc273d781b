"""Two gloo processes: the shuffle, the queue, and equality with one process that has two BN groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.encoders import base_encoder
from pretrain.moco import MoCo
from pretrain.run import data_parallel
from pretrain.runtime import checkpoint, dist
from pretrain.shuffle import shuffle, unshuffle
from tests.pretrain.conftest import ROOT, TINY
from tests.processes import run_in_processes

WORLD, N, STEPS = 2, 4, 2  # processes, images in each, steps


def views() -> Tensor:
    """(STEPS, 2, B, 3, 32, 32) in float64, so that sums in another order do not matter."""
    return torch.randn(STEPS, 2, WORLD * N, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def train(bn_groups: int, rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = MoCo(base_encoder("resnet18", bn_groups), dim=8, K=16, m=0.9, T=0.2, mlp=True).double()
    parallel = data_parallel(model, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    losses = []
    torch.manual_seed(2)
    for im_q, im_k in views():
        loss = F.cross_entropy(*parallel(im_q[rank::world], im_k[rank::world]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "state": model.state_dict()}


def in_each_process() -> dict[str, Any]:
    rank = dist.rank()
    mine = torch.arange(N) + N * rank
    torch.manual_seed(rank)  # processes that disagree about the order would lose images
    shuffled, order = shuffle(mine)
    return {
        "mine": mine,
        "shuffled": shuffled,
        "order": order,
        "restored": unshuffle(shuffled, order),
        "trained": train(1, rank, WORLD),
    }


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_processes(in_each_process, tmp_path_factory.mktemp("processes"), world_size=WORLD)


def test_shuffle_deals_all_images_and_unshuffle_brings_them_back(processes: list[dict[str, Any]]) -> None:
    assert torch.equal(processes[0]["order"], processes[1]["order"])
    dealt = torch.cat([p["shuffled"] for p in processes])
    assert torch.equal(dealt, processes[0]["order"]) and sorted(dealt.tolist()) == list(range(WORLD * N))
    for p in processes:
        assert torch.equal(p["restored"], p["mine"]) and not torch.equal(p["shuffled"], p["mine"])


def test_queue_and_weights_are_equal_in_all_processes(processes: list[dict[str, Any]]) -> None:
    first, second = (p["trained"]["state"] for p in processes)
    for name in first:
        if "running" not in name:  # each process has its own BN statistics
            assert torch.equal(first[name], second[name]), name


def test_two_processes_equal_one_with_two_bn_groups(
    processes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In one process image i is in group i mod 2, so process r holds images r::2: entry r*N + j of the gathered batch is
    # image j*2 + r. The same shuffle is then the same order, translated at both ends.
    image = torch.arange(WORLD * N).view(N, WORLD).T.flatten()
    drawn = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **how: image[drawn(n, **how)].view(WORLD, N).T.flatten())
    one = train(WORLD, 0, 1)

    losses = torch.stack([p["trained"]["losses"] for p in processes]).mean(0)
    torch.testing.assert_close(one["losses"], losses, rtol=0, atol=1e-9)
    state = processes[0]["trained"]["state"]
    for name, value in one["state"].items():
        if name == "queue":
            blocks = value.view(8, 16 // (WORLD * N), WORLD * N)  # batch by batch, columns in gathered order
            torch.testing.assert_close(blocks[..., image].flatten(1), state[name], rtol=0, atol=1e-9)
        elif "running" in name:  # the mean over the groups' histories
            history = torch.stack([p["trained"]["state"][name] for p in processes]).mean(0)
            torch.testing.assert_close(value, history, rtol=0, atol=1e-9)
        else:
            torch.testing.assert_close(value, state[name], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_torchrun(images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tools" / "train_moco.py"), "--config-file", str(TINY), "--output-dir", str(tmp_path)]
    command += ["DATA.TRAIN", str(images), "MODEL.BN_GROUPS", "1", "SOLVER.EPOCHS", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["iterations"] == 10 and "processes: 2 on cpu; BN groups: 2 of 4 images" in result["notes"]
    saved = checkpoint.load(tmp_path / "checkpoint_last.pth.tar")
    assert len(saved["processes"]) == 2 and all(name.startswith("module.") for name in saved["state_dict"])
