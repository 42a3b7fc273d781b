"""SimCLR in float64: its loss as loops, one process and two; what its run says and leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain.build import build_optimizer, data_parallel, description, place
from pretrain.loop import train_step
from pretrain.mechanisms.simclr import SimCLR
from pretrain.optimizers import LARS
from pretrain.probes.trunk import load_trunk
from pretrain.run import build_model, main
from pretrain.runtime import checkpoint, dist
from tests.pretrain.conftest import MakeCfg
from tests.pretrain.test_mechanisms import SGD, B, C, Encoder, T, assert_equal, naive_features, views
from tests.processes import run_in_processes
from transfer.convert.convert import convert

STEPS = 3
SIMCLR = ("MODEL.MECHANISM", "simclr", "MODEL.SHUFFLE_BN", False, "MODEL.BN_GROUPS", 1, "MODEL.SYNC_BN", True)
RECIPE = (*SIMCLR, "AUG.RECIPE", "simclr", "AUG.SCALE", "(0.08, 1.0)", "SOLVER.OPTIMIZER", "lars", "SOLVER.EPOCHS", 2,
          "SOLVER.WARMUP_EPOCHS", 1, "SOLVER.BASE_LR", 0.3, "SOLVER.REFERENCE_BATCH", 8)  # fmt: skip


def make() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(Encoder, dim=C, T=T, mlp=False).double()


def ours() -> dict[str, Any]:
    model = make()
    parallel, optimizer = data_parallel(model, torch.device("cpu")), SGD(model.parameters())
    mine = slice(dist.rank() * B // dist.world_size(), (dist.rank() + 1) * B // dist.world_size())
    losses, right, gradients = [], [], []
    for step in range(STEPS):
        im_q, im_k = views(step)
        loss, scalars = train_step(parallel, optimizer, im_q[mine], im_k[mine])
        losses.append(loss)
        right.append(scalars["acc1"])
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    found = {"losses": torch.stack(losses), "right": torch.stack(right)}
    return {**found, "gradients": gradients, "state": model.state_dict()}


def closed_form(z: list[Tensor]) -> tuple[Tensor, float]:
    """Equation 1 of the paper over all ordered pairs of 2B views, B apart; and how often the partner is the nearest."""
    total, hits = torch.zeros((), dtype=torch.float64), 0
    for i in range(2 * B):
        j = (i + B) % (2 * B)
        denominator = sum(((z[i] * z[k]).sum() / T).exp() for k in range(2 * B) if k != i)
        total = total - (((z[i] * z[j]).sum() / T).exp() / denominator).log()
        hits += max((k for k in range(2 * B) if k != i), key=lambda k: (z[i] * z[k]).sum().item()) == j
    return total / (2 * B), 100 * hits / (2 * B)


def naive(processes: int) -> dict[str, Any]:
    """The same as loops; each process's views of its images share their batch statistics."""
    model = make()
    optimizer = SGD(model.parameters())
    subsets = [torch.cat([part, part + B]) for part in torch.arange(B).chunk(processes)]
    losses, right, gradients = [], [], []
    for step in range(STEPS):
        loss, acc1 = closed_form(naive_features(model.encoder_q, torch.cat([*views(step)]), subsets))
        optimizer.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        losses.append(loss.detach())
        right.append(acc1)
    found = {"losses": torch.stack(losses), "right": torch.tensor(right)}
    return {**found, "gradients": gradients, "state": model.state_dict()}


def test_steps_equal_the_closed_form() -> None:
    found, want = ours(), naive(1)
    assert_equal(found, want)
    torch.testing.assert_close(found["right"], want["right"])
    assert 0 < want["right"].sum() < 300


def test_two_processes_equal_the_closed_form_of_the_whole_batch(tmp_path: Path) -> None:
    results, want = run_in_processes(ours, tmp_path), naive(2)
    assert_equal({**results[0], "losses": torch.stack([r["losses"] for r in results]).mean(0)}, want)
    torch.testing.assert_close(torch.stack([r["right"] for r in results]).mean(0), want["right"])
    for name, value in results[0]["state"].items():
        if "running" not in name:
            assert torch.equal(value, results[1]["state"][name]), name


def test_rows_leave_out_themselves_and_know_their_partner() -> None:
    with torch.no_grad():
        logits, labels = make()(*views(0)[:, :2])
    assert logits.shape == (4, 3) and labels.tolist() == [1, 2, 0, 1]
    whole = torch.full((4, 4), torch.nan, dtype=torch.float64)
    whole[~torch.eye(4, dtype=torch.bool)] = logits.flatten()
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    assert all(whole[i, j] == pytest.approx(whole[j, i].item(), abs=1e-12) for i, j in pairs)
    assert [logits[i, label].item() for i, label in enumerate(labels)] == [
        whole[i, (i + 2) % 4].item() for i in range(4)
    ]


def test_micro_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="SimCLR takes its negatives from the mini-batch"):
        make()(*views(0), 0, 2)


def test_a_run_by_its_recipe(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg(images, tmp_path / "run", *RECIPE)
    model = build_model(cfg)
    assert isinstance(build_optimizer(cfg, model), LARS)
    assert description(cfg, torch.device("cpu"))[:4] == [
        "simclr: acc1 (percent) is that of picking the positive among 14 negatives, both ways",
        "processes: 1 on cpu; BN synchronised: 1 x 8 images",
        "batch: 8 = 1 processes x 1 micro-batches x 8 images",
        "learning rate: 0.3 = 0.3 x 8 / 8, cosine, 1 epochs of warm-up, lars; arithmetic: float32",
    ]
    assert any(isinstance(m, nn.SyncBatchNorm) for m in place(model, cfg, torch.device("cpu")).modules())
    result = main(cfg)
    assert 0 < result.metrics["loss"] < 10 and result.extra["mechanism"] == "simclr"
    path = tmp_path / "run" / "checkpoint_last.pth.tar"
    state = checkpoint.load(path)["state_dict"]
    done = convert(path, tmp_path / "trunk.pkl")
    assert {name.split(".")[2] for name in done.dropped} == {"fc"} and len(done.dropped) == 4
    assert torch.equal(load_trunk(path)[0].conv1.weight, state["module.encoder_q.conv1.weight"])
