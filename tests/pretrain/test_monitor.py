"""Monitors against closed forms and naive loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pretrain.encoders import base_encoder
from pretrain.mechanisms.end_to_end import EndToEnd
from pretrain.mechanisms.memory_bank import MemoryBank
from pretrain.mechanisms.simclr import SimCLR
from pretrain.moco import MoCo
from pretrain.monitor import (
    NEVER,
    Watch,
    health,
    key_ages,
    queue_health,
    similarities,
    spread,
    within_batch,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_spread_is_one_on_the_sphere_and_zero_at_a_point() -> None:
    assert spread(normal(20000, 64)).item() == pytest.approx(1, abs=0.02)
    assert spread(7 * normal(1, 64).repeat(50, 1)).item() == pytest.approx(0, abs=1e-5)
    line = torch.cat([normal(1, 64), -normal(1, 64)])  # two opposite points: deviations are the coordinates
    assert spread(line).item() == pytest.approx(F.normalize(line)[0].abs().mean().item() * 8, rel=1e-5)


def test_spread_sees_dimensional_collapse() -> None:
    flat = normal(5000, 64) * torch.cat([torch.ones(4), torch.zeros(60)])
    assert spread(flat).item() == pytest.approx(math.sqrt(4 / 64), abs=0.02)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a @ b) / a.norm() / b.norm()).item()


def test_similarities_come_back_out_of_moco_logits() -> None:
    torch.manual_seed(0)
    model = MoCo(base_encoder("resnet18", 2), dim=8, K=16, T=0.2)
    queue, seen = model.queue.clone(), []
    model.encoder_q.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits, labels = model(normal(8, 3, 32, 32), normal(8, 3, 32, 32, seed=1))
    positive, negative = similarities(logits, labels, T=0.2)
    keys = model.queue[:, :8].T
    q = seen[0]
    assert positive.item() == pytest.approx(sum(cosine(a, b) for a, b in zip(q, keys, strict=True)) / 8, abs=1e-5)
    assert negative.item() == pytest.approx(sum(cosine(a, b) for a in q for b in queue.T) / (8 * 16), abs=1e-5)
    found = health(logits, labels, 0.2, keys)
    assert found == pytest.approx(
        {
            "embedding/positive": positive.item(),
            "embedding/negative": negative.item(),
            "embedding/spread": spread(keys).item(),
        }
    )


def test_positives_may_stand_in_any_column() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, 6.0], [4.0, 0.0, 2.0]]), torch.tensor([2, 0])
    positive, negative = similarities(logits, labels, T=0.5)
    assert (positive.item(), negative.item()) == (2.5, 0.625)


@pytest.mark.parametrize("parts", [1, 2])
def test_similarity_within_the_batch_against_a_loop(parts: int) -> None:
    torch.manual_seed(0)
    model, seen = MoCo(base_encoder("resnet18", 2), dim=8, K=16, T=0.2), []
    watch = Watch(model, B=8)
    model.encoder_q.register_forward_hook(lambda module, inputs, output: seen.append(output))
    queries, keys = normal(8, 3, 32, 32), normal(8, 3, 32, 32, seed=1)
    for part, images in enumerate(queries.chunk(parts)):
        model(images, keys, part, parts)
    q, k, first = seen[-1], model.queue[:, :8].T, 8 - 8 // parts  # of the last micro-batch
    pairs = [(i, j) for i in range(len(q)) for j in range(8) if j != first + i]
    expected = sum(cosine(q[i], k[j]) for i, j in pairs) / len(pairs)
    assert watch(1)["embedding/within_batch"] == pytest.approx(expected, abs=1e-5)
    own = sum(cosine(q[i], k[first + i]) for i in range(len(q))) / len(q)
    assert within_batch(F.normalize(q), k, own).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("start", [0, 4, 6])
def test_key_ages_against_a_queue_that_remembers(start: int) -> None:
    K, B = 12, 4
    written: list[int | None] = [None] * K
    for iteration in range(9):
        pointer = (start + iteration * B) % K
        ages = [NEVER if step is None else iteration - 1 - step for step in written]
        assert key_ages(pointer, K, B, iteration).tolist() == ages
        for column in range(pointer, pointer + B):
            written[column % K] = iteration


def test_queue_health_of_a_real_queue() -> None:
    torch.manual_seed(0)
    model = MoCo(base_encoder("resnet18", 2), dim=8, K=16)
    fresh = queue_health(model.queue, model.queue_ptr, B=4, iteration=0)
    assert fresh["queue/filled"] == 0 and math.isnan(fresh["queue/age_mean"]) and math.isnan(fresh["queue/age_max"])
    for step in range(3):
        model(normal(4, 3, 32, 32, seed=step), normal(4, 3, 32, 32, seed=9))
    found = queue_health(model.queue, model.queue_ptr, B=4, iteration=3)
    assert found["queue/filled"] == 0.75 and found["queue/age_mean"] == 1 and found["queue/age_max"] == 2
    assert found["queue/norm_error"] < 1e-5 and 0 < found["queue/spread"] <= 1.01
    model.queue[:, 0] = 0
    assert queue_health(model.queue, model.queue_ptr, B=4, iteration=3)["queue/norm_error"] == 1


def test_impossible_queues() -> None:
    for pointer, B in [(16, 4), (-4, 4), (0, 5)]:
        with pytest.raises(ValueError, match=f"K=16 keys, filled in blocks of {B}, cannot have its pointer at"):
            key_ages(pointer, 16, B, 1)


def test_watch_tells_the_latest_step_of_every_mechanism() -> None:
    encoder, images = base_encoder("resnet18", 2), normal(4, 3, 32, 32)
    moco = MoCo(encoder, dim=8, K=16)
    watch = Watch(moco, B=4)
    for step in range(5):
        logits, labels = moco(normal(4, 3, 32, 32, seed=step), images)
    newest = moco.queue[:, :4].T  # the fifth block of four has gone round to the start
    expected = health(logits, labels, 0.07, newest) | queue_health(moco.queue, moco.queue_ptr, 4, 5)
    expected["embedding/within_batch"] = within_batch(*moco.latest, expected["embedding/positive"]).item()
    assert watch(5) == expected and expected["queue/filled"] == 1 and expected["queue/age_max"] == 3

    both = EndToEnd(encoder, dim=8, T=0.2)
    watch = Watch(both, B=4)
    expected = health(*both(images, images), 0.2)
    assert watch(1) == expected and expected.keys() == {"embedding/positive", "embedding/negative"}

    one = SimCLR(encoder, dim=8, T=0.2)
    watch = Watch(one, B=4)
    expected = health(*one(images, images), 0.2)
    assert watch(1) == expected and expected.keys() == {"embedding/positive", "embedding/negative"}

    for nce in (False, True):
        bank = MemoryBank(encoder, 20, dim=8, K=10, nce=nce)
        watch = Watch(bank, B=4)
        positive, negative = similarities(*bank(images, torch.arange(4)), 0.07)
        found = watch(1)
        if nce:
            assert found == {"embedding/gap": pytest.approx(positive.item() - negative.item())}
        else:
            assert found == {"embedding/positive": positive.item(), "embedding/negative": negative.item()}
