"""LARS against a naive implementation, number by number."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from pretrain.optimizers import LARS, OPTIMIZERS, TRUST


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 5, bias=False)]
    return nn.Sequential(*layers).double()


def gradient(parameter: Tensor, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * step + parameter.numel())
    return torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def naive(weights: list[float], grads: list[float], speeds: list[float], rate: float, momentum: float, decay: float,
          vector: bool) -> tuple[list[float], list[float]]:  # fmt: skip
    """One step of one parameter: its new numbers, and their new velocities."""
    factor = 1.0
    if not vector:
        grads = [g + decay * w for g, w in zip(grads, weights, strict=True)]
        w_norm, g_norm = (math.sqrt(sum(x * x for x in numbers)) for numbers in (weights, grads))
        if w_norm > 0 and g_norm > 0:
            factor = 0.001 * w_norm / g_norm
    speeds = [momentum * v + rate * factor * g for v, g in zip(speeds, grads, strict=True)]
    return [w - v for w, v in zip(weights, speeds, strict=True)], speeds


@pytest.mark.parametrize("momentum, decay", [(0.9, 1e-2), (0.0, 0.5), (0.9, 0.0)])
def test_steps_equal_naive_ones(momentum: float, decay: float) -> None:
    model = network()
    nn.init.zeros_(model[4].weight)  # a norm of 0: the factor is 1
    parameters = list(model.parameters())
    optimizer = LARS(parameters, 1.0, momentum=momentum, weight_decay=decay)
    numbers = [p.detach().flatten().tolist() for p in parameters]
    speeds = [[0.0] * len(x) for x in numbers]
    for step, rate in enumerate((0.0, 2.0, 0.5, 0.1)):
        optimizer.param_groups[0]["lr"] = rate
        for i, p in enumerate(parameters):
            p.grad = gradient(p, step)
            grads = p.grad.flatten().tolist()
            numbers[i], speeds[i] = naive(numbers[i], grads, speeds[i], rate, momentum, decay, p.ndim == 1)
        optimizer.step()
        for p, want in zip(parameters, numbers, strict=True):
            torch.testing.assert_close(
                p.detach().flatten(), torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-13
            )
    assert TRUST == 0.001 and OPTIMIZERS["lars"] is LARS


def test_what_has_no_gradient_stays_and_gradients_are_left_alone() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = LARS(model.parameters(), 1.0, weight_decay=0.1)
    grad = gradient(model[0].weight, 0)
    model[0].weight.grad = grad.clone()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight"} and torch.equal(model[0].weight.grad, grad)


def test_state_goes_on_where_it_was() -> None:
    ends = []
    for stop in (False, True):
        model = network()
        optimizer = LARS(model.parameters(), 0.5, weight_decay=0.1)
        for step in range(4):
            if stop and step == 2:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = LARS(model.parameters(), 9.0, momentum=0.1)
                optimizer.load_state_dict(saved)
            for p in model.parameters():
                p.grad = gradient(p, step)
            optimizer.step()
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_a_scaler_leaves_out_a_step_that_overflows() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer, scaler = LARS([weight], 1.0), GradScaler("cpu", init_scale=4.0)
    scaler.scale((weight * math.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight.data, torch.ones(2, 2)) and scaler.get_scale() == 2.0


def test_sgd_with_a_scaler_that_skips_the_first_step() -> None:
    """Against torch's plain SGD, for which the scaler itself leaves the step out."""
    models = [network().float() for _ in range(2)]
    ours = OPTIMIZERS["sgd"](models[0].parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    plain = torch.optim.SGD(models[1].parameters(), 0.1, momentum=0.9, weight_decay=1e-2, fused=False)
    scalers = [GradScaler("cpu", init_scale=2.0**20) for _ in models]
    torch.use_deterministic_algorithms(True)  # memory that nobody initialised is then NaN
    try:
        for step in range(4):
            for model, optimizer, scaler in zip(models, (ours, plain), scalers, strict=True):
                optimizer.zero_grad()
                for p in model.parameters():
                    found = gradient(p, step).float() * scaler.scale(torch.ones(()))
                    p.grad = found if step else found * math.inf
                scaler.step(optimizer)
                scaler.update()
            for a, b in zip(*(model.parameters() for model in models), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    finally:
        torch.use_deterministic_algorithms(False)
    assert scalers[0].get_scale() == 2.0**19
