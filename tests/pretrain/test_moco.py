"""The algorithm against a naive loop in float64, and its state dict."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pretrain.encoders import base_encoder
from pretrain.moco import MoCo


class Linear(nn.Module):
    """The smallest encoder that MoCo accepts: (N, 3, 2, 2) -> (N, num_classes)."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.body = nn.Linear(12, 6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.body(x.flatten(1))))


def naive_step(model: MoCo, im_q: Tensor, im_k: Tensor) -> tuple[list[list[float]], Tensor, dict[str, Tensor]]:
    """Logits, next queue and next key encoder, element by element; `model` stays as it is."""
    keys = {
        name: model.m * p_k + (1 - model.m) * p_q
        for (name, p_k), p_q in zip(model.encoder_k.named_parameters(), model.encoder_q.parameters(), strict=True)
    }
    unit = [
        [v / v.norm() for v in encode(images)]
        for encode, images in (
            (model.encoder_q, im_q),
            (partial(torch.func.functional_call, model.encoder_k, keys), im_k),
        )
    ]
    queue = model.queue.clone()
    logits = []
    for q, k in zip(*unit, strict=True):
        row = [sum(a * b for a, b in zip(q.tolist(), k.tolist(), strict=True))]
        for j in range(model.K):
            row.append(sum(a * b for a, b in zip(q.tolist(), queue[:, j].tolist(), strict=True)))
        logits.append([value / model.T for value in row])
    for i, k in enumerate(unit[1]):
        queue[:, (int(model.queue_ptr) + i) % model.K] = k
    return logits, queue, keys


@pytest.mark.parametrize("mlp", [False, True])
def test_step_equals_naive_loop(mlp: bool) -> None:
    torch.manual_seed(0)
    model = MoCo(Linear, dim=5, K=12, m=0.7, T=0.3, mlp=mlp).double()
    model.queue_ptr.fill_(10)  # as another batch size may have left it; the queue wraps at once
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(4):
        im_q, im_k = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
        logits, queue, keys = naive_step(model, im_q, im_k)
        ours, labels = model(im_q, im_k)
        torch.testing.assert_close(ours, torch.tensor(logits, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(model.queue, queue, rtol=0, atol=1e-12)
        for name, value in model.encoder_k.named_parameters():
            torch.testing.assert_close(value.data, keys[name].data, rtol=0, atol=1e-12)
        assert labels.tolist() == [0] * 4
        assert model.queue_ptr.tolist() == [(10 + 4 * (step + 1)) % 12]
        loss = nn.functional.cross_entropy(ours, labels)
        optimizer.zero_grad()
        loss.backward()  # after the queue was changed in place
        optimizer.step()


def test_momentum_update_has_the_references_rounding() -> None:
    torch.manual_seed(0)
    model = MoCo(Linear, dim=5, K=4)
    for p in model.encoder_q.parameters():
        p.data.normal_()
    expected = [
        0.999 * k + (1 - 0.999) * q
        for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True)
    ]
    model._update_key_encoder()
    for value, want in zip(model.encoder_k.parameters(), expected, strict=True):
        assert torch.equal(value, want)


def test_no_gradient_reaches_keys_or_queue() -> None:
    model = MoCo(Linear, dim=5, K=8)
    logits, _ = model(torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2))
    logits.sum().backward()
    assert all(p.grad is not None for p in model.encoder_q.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.encoder_k.parameters())
    assert not model.queue.requires_grad


def test_key_encoder_starts_as_a_copy_and_keeps_its_own_statistics() -> None:
    model = MoCo(base_encoder("resnet18"), dim=8, K=8)
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(q, k)
    model.m = 0.0  # even then the statistics are not copied
    model(torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32) + 1)
    mean_q, mean_k = (model.get_buffer(f"encoder_{x}.bn1.running_mean") for x in "qk")
    assert not torch.allclose(mean_q, mean_k)


def test_queue_starts_with_unit_columns() -> None:
    norms = MoCo(Linear, dim=16, K=32).queue.norm(dim=0)
    torch.testing.assert_close(norms, torch.ones(32))


@pytest.mark.parametrize("mlp", [False, True])
def test_state_dict_names_are_the_references(mlp: bool) -> None:
    state = MoCo(base_encoder("resnet18", bn_groups=2), dim=16, K=32, mlp=mlp).state_dict()
    trunk = [name for name in base_encoder("resnet18")(num_classes=1).state_dict() if not name.startswith("fc.")]
    head = ["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"] if mlp else ["fc.weight", "fc.bias"]
    expected = {f"{encoder}.{name}" for encoder in ("encoder_q", "encoder_k") for name in trunk + head}
    assert set(state) == expected | {"queue", "queue_ptr"}
    assert state["queue"].shape == (16, 32) and state["queue_ptr"].shape == (1,)


def test_queue_that_is_no_multiple_of_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"K=10.*batch of 4"):
        MoCo(Linear, dim=5, K=10)(torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2))
