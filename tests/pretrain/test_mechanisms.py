"""Each mechanism against a naive one in float64: values, gradients, one process and two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.build import data_parallel
from pretrain.loop import train_step
from pretrain.mechanisms.end_to_end import EndToEnd
from pretrain.mechanisms.memory_bank import MemoryBank, nce
from pretrain.moco import MoCo
from pretrain.runtime import dist
from pretrain.runtime.dist import all_gather_with_gradient
from pretrain.score import classification
from pretrain.shuffle import GroupBatchNorm2d
from tests.processes import run_in_processes

B, C, n, K, T, STEPS = 8, 5, 20, 12, 0.3, 3
SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9)


class Encoder(nn.Module):
    """Small, but with batch statistics: (N, 3, 2, 2) -> (N, num_classes)."""

    def __init__(self, num_classes: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = GroupBatchNorm2d(4, groups)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.bn(self.conv(x)).flatten(1)))


def naive_features(encoder: nn.Module, images: Tensor, subsets: Iterable[Tensor]) -> list[Tensor]:
    """B unit features, each normalised by the batch statistics of the one subset that it is in; written out."""
    conv, bn, fc = (encoder.get_submodule(name) for name in ("conv", "bn", "fc"))
    out: dict[int, Tensor] = {}
    for subset in subsets:
        x = torch.stack([torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], images[i]) for i in subset])
        x = x + conv.bias[:, None, None]
        mean = x.mean((0, 2, 3), keepdim=True)
        var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        x = (x - mean) / (var + bn.eps).sqrt() * bn.weight[:, None, None] + bn.bias[:, None, None]
        for i, row in zip(subset.tolist(), x, strict=True):
            feature = fc.weight @ torch.tanh(row.flatten()) + fc.bias
            out[i] = feature / (feature**2).sum().sqrt()
    return [out[i] for i in range(len(images))]


def naive_infonce(queries: list[Tensor], keys: list[Tensor], negatives: list[list[Tensor]]) -> Tensor:
    """Equation 1, averaged over queries."""
    losses = []
    for q, k, others in zip(queries, keys, negatives, strict=True):
        scores = [(q * x).sum() / T for x in [k, *others]]
        losses.append(-scores[0] + torch.logsumexp(torch.stack(scores), 0))
    return torch.stack(losses).mean()


def views(step: int) -> Tensor:
    return torch.randn(2, B, 3, 2, 2, generator=torch.Generator().manual_seed(step)).double()


def numbers(step: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(step))[:B]


def make(kind: str, groups: int = 1) -> nn.Module:
    torch.manual_seed(0)
    encoder = partial(Encoder, groups=groups)
    if kind == "end_to_end":
        model: nn.Module = EndToEnd(encoder, dim=C, T=T)
    else:
        model = MemoryBank(encoder, n, dim=C, K=K, m=0.3, T=T, nce=kind == "nce")
    return model.double()


def ours(kind: str, groups: int = 1, parts: int = 1) -> dict[str, Any]:
    """Losses, first gradients and end state of some steps, in the current processes."""
    model = make(kind, groups)
    parallel = data_parallel(model, torch.device("cpu"))
    optimizer = SGD(model.parameters())
    rank, world = dist.rank(), dist.world_size()
    torch.manual_seed(1 + rank)  # what processes must agree on comes from rank 0
    losses, gradients = [], []
    for step in range(STEPS):
        im_q, key = views(step)[0], views(step)[1] if kind == "end_to_end" else numbers(step)
        mine = slice(rank * B // world, (rank + 1) * B // world)
        score = partial(classification, loss=nce) if kind == "nce" else classification
        loss, _ = train_step(parallel, optimizer, im_q[mine], key[mine], score=score, parts=parts)
        losses.append(loss)
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    return {"losses": torch.stack(losses), "gradients": gradients, "state": model.state_dict()}


def naive(kind: str, subsets: list[Tensor], key_subsets: Callable[[Tensor], list[Tensor]]) -> dict[str, Any]:
    """The same, element by element.

    Args:
        subsets: images whose queries share batch statistics.
        key_subsets: order of the shuffle -> images whose keys share them.
    """
    model = make(kind)
    optimizer = SGD(model.parameters())
    torch.manual_seed(1)
    losses, gradients, log_Z = [], [], None
    for step in range(STEPS):
        im_q, im_k = views(step)
        q = naive_features(model.encoder_q, im_q, subsets)
        if kind == "end_to_end":
            k = naive_features(model.encoder_k, im_k, key_subsets(torch.randperm(B)))
            loss = naive_infonce(q, k, [[k[j] for j in range(B) if j != i] for i in range(B)])
        else:
            bank = model.get_buffer("bank")
            rows = [bank[i].clone() for i in torch.randint(n, (K,)).tolist()]
            own = [bank[i].clone() for i in numbers(step).tolist()]
            if kind == "infonce":
                loss = naive_infonce(q, own, [rows] * B)
            else:
                if log_Z is None:
                    scores = [math.exp((f @ v).item() / T) for f, k in zip(q, own, strict=True) for v in [k, *rows]]
                    log_Z = math.log(n * sum(scores) / len(scores))
                loss = torch.zeros((), dtype=torch.float64)
                for f, positive in zip(q, own, strict=True):
                    for j, v in enumerate([positive, *rows]):
                        p = ((f * v).sum() / T - log_Z).exp()
                        h = p / (p + K / n)
                        loss = loss - (h if j == 0 else 1 - h).log() / B
            for i, f in zip(numbers(step).tolist(), q, strict=True):
                row = 0.3 * bank[i] + 0.7 * f.detach()
                bank[i] = row / row.norm()
        optimizer.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "gradients": gradients, "state": model.state_dict()}


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    close(a["losses"], b["losses"])
    for x, y in zip(a["gradients"], b["gradients"], strict=True):
        assert len(x) == len(y) and any(g.abs().max() > 1e-2 for g in x)
        close(x, y)
    for name, value in b["state"].items():
        if "bn.running" not in name and "num_batches" not in name and name != "Z":
            close(a["state"][name], value)


def contiguous(order: Tensor, count: int) -> list[Tensor]:
    return list(order.chunk(count))


def interleaved(order: Tensor, count: int) -> list[Tensor]:
    return [order[g::count] for g in range(count)]


def test_end_to_end_equals_naive_with_virtual_bn_groups() -> None:
    image = torch.arange(B)
    want = naive("end_to_end", interleaved(image, 4), lambda order: interleaved(order, 4))
    assert_equal(ours("end_to_end", groups=4), want)


@pytest.mark.parametrize("kind, parts", [("infonce", 1), ("infonce", 2), ("nce", 1)])
def test_memory_bank_equals_naive(kind: str, parts: int) -> None:
    assert_equal(ours(kind, parts=parts), naive(kind, contiguous(torch.arange(B), parts), lambda order: []))


def in_each_process() -> dict[str, Any]:
    results: dict[str, Any] = {kind: ours(kind) for kind in ("end_to_end", "infonce", "nce")}
    results["accumulated"] = ours("infonce", parts=2)
    mine = torch.tensor([1.0, 2.0]) * (1 + dist.rank())
    mine.requires_grad_()
    everything = all_gather_with_gradient(mine)
    (everything * torch.arange(4) * 10 ** dist.rank()).sum().backward()
    results["gathered"], results["owed"] = everything.detach(), mine.grad
    results["moco"] = moco_steps(parts=1)
    return results


def moco_steps(parts: int) -> dict[str, Tensor]:
    """State after two steps of MoCo, without BN's history; process r has the r-th part of each batch."""
    torch.manual_seed(0)
    model = MoCo(Encoder, dim=C, K=2 * B, m=0.9, T=T).double()
    parallel, optimizer = data_parallel(model, torch.device("cpu")), SGD(model.parameters())
    torch.manual_seed(1)
    for step in range(2):
        im_q, im_k = views(step).chunk(dist.world_size(), dim=1)[dist.rank()]
        train_step(parallel, optimizer, im_q, im_k, parts=parts)
    return {name: value for name, value in model.state_dict().items() if "running" not in name and "num_" not in name}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_processes(in_each_process, tmp_path_factory.mktemp("mechanisms"))


@pytest.mark.parametrize("kind", ["end_to_end", "infonce", "nce"])
def test_two_processes_equal_naive(kind: str, processes: list[dict[str, Any]]) -> None:
    want = naive(kind, contiguous(torch.arange(B), 2), lambda order: contiguous(order, 2))
    results = [p[kind] for p in processes]
    mean = {**results[0], "losses": torch.stack([r["losses"] for r in results]).mean(0)}
    assert_equal(mean, want)
    for name, value in results[0]["state"].items():
        if "running" not in name:
            assert torch.equal(value, results[1]["state"][name]), name


def test_two_processes_with_micro_batches_equal_naive(processes: list[dict[str, Any]]) -> None:
    results = [p["accumulated"] for p in processes]
    mean = {**results[0], "losses": torch.stack([r["losses"] for r in results]).mean(0)}
    assert_equal(mean, naive("infonce", contiguous(torch.arange(B), 4), lambda order: []))


def test_gather_adds_up_what_all_processes_owe(processes: list[dict[str, Any]]) -> None:
    for rank, p in enumerate(processes):
        assert p["gathered"].tolist() == [1, 2, 2, 4]
        assert p["owed"].tolist() == [[0, 11], [22, 33]][rank]


def test_moco_in_micro_batches_equals_as_many_processes(processes: list[dict[str, Any]]) -> None:
    """Both encoders, queue and pointer: shuffle, momentum and queue go by the step, BN goes by the micro-batch."""
    for name, value in moco_steps(parts=2).items():
        torch.testing.assert_close(value, processes[0]["moco"][name], rtol=0, atol=1e-12, msg=name)
    assert not torch.allclose(moco_steps(parts=1)["encoder_q.fc.weight"], processes[0]["moco"]["encoder_q.fc.weight"])


def test_end_to_end_trains_both_encoders_and_they_part() -> None:
    model = EndToEnd(Encoder, dim=C)
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(q, k) and q.requires_grad and k.requires_grad
    logits, labels = model(*views(0).float())
    assert logits.shape == (B, B) and labels.tolist() == list(range(B))
    F.cross_entropy(logits, labels).backward()
    pairs = list(zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True))
    assert all(q.grad is not None and k.grad is not None and not torch.equal(q.grad, k.grad) for q, k in pairs)
    assert set(model.state_dict()) == {f"encoder_{x}.{name}" for x in "qk" for name in Encoder(C).state_dict()}


def test_end_to_end_gradient_is_that_of_finite_differences() -> None:
    model = make("end_to_end")
    im_q, im_k = views(0)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return F.cross_entropy(*model(im_q, im_k))

    loss().backward()
    for name in ("encoder_q.conv.weight", "encoder_k.conv.weight", "encoder_k.fc.bias"):
        p = model.get_parameter(name)
        assert p.grad is not None
        direction, eps = torch.ones_like(p), 1e-6
        with torch.no_grad():
            p += eps * direction
            up = loss()
            p -= 2 * eps * direction
            down = loss()
            p += eps * direction
        assert float((up - down) / (2 * eps)) == pytest.approx(float((p.grad * direction).sum()), rel=1e-6, abs=1e-9)


def test_end_to_end_refuses_micro_batches() -> None:
    with pytest.raises(ValueError, match="end-to-end"):
        EndToEnd(Encoder, dim=C)(*views(0).float(), 0, 2)


def test_bank_changes_only_rows_of_the_batch_and_keeps_them_unit() -> None:
    model = make("infonce")
    before = model.get_buffer("bank").clone()
    model(views(0)[0], numbers(0))
    bank = model.get_buffer("bank")
    changed = (bank != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == sorted(numbers(0).tolist())
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(n, dtype=torch.float64))


def test_bank_draws_uniformly() -> None:
    model = make("infonce")
    counts = torch.zeros(n)
    torch.manual_seed(0)
    for _ in range(400):
        model(views(0)[0], numbers(0))
        for row in model._rows:
            counts[int((model.get_buffer("bank") @ row).argmax())] += 1
    # rows of the batch move after the draw; every one of the others is drawn 400 * 12 / 20 = 240 times, +/- 5 sigma
    others = [i for i in range(n) if i not in numbers(0).tolist()]
    assert all(abs(counts[i] - 240) < 5 * math.sqrt(240) for i in others)


def test_bank_refuses_more_negatives_than_rows() -> None:
    with pytest.raises(ValueError, match="K=30 negatives .* 20 images"):
        MemoryBank(Encoder, 20, dim=C, K=30)


def test_nce_constant_is_set_once() -> None:
    model = make("nce")
    assert isinstance(model, MemoryBank) and model.Z == 0
    model(views(0)[0], numbers(0))
    first = model.Z.clone()
    model(views(1)[0], numbers(1))
    assert torch.equal(model.Z, first) and first > 0
    resumed = make("nce")
    resumed.load_state_dict(model.state_dict())
    resumed(views(2)[0], numbers(2))
    assert torch.equal(resumed.get_buffer("Z"), first)
