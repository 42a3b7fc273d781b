"""Schedules against closed forms and the numbers of the papers."""

from __future__ import annotations

import math

import pytest

from pretrain.runtime.config import ConfigError
from pretrain.schedule import by_name, cosine, linear_scaling, never_steps, step


def test_step_follows_the_paper() -> None:
    rates = [step(epoch, base_lr=0.03, steps=(120, 160), gamma=0.1) for epoch in range(200)]
    assert rates == pytest.approx([0.03] * 120 + [0.003] * 40 + [0.0003] * 40)


def test_steps_that_are_never_reached() -> None:
    (line,) = never_steps((60, 80), 60)
    assert line.startswith("no step of SOLVER.STEPS (60, 80) is reached in 60 epochs, so that the rate never falls")
    assert never_steps((60, 80), 61) == never_steps((80, 60), 61) == never_steps((), 1) == []


def test_step_does_not_mind_the_order_of_steps() -> None:
    assert step(170, base_lr=1.0, steps=(160, 120)) == step(170, base_lr=1.0, steps=(120, 160))


@pytest.mark.parametrize("epochs", [1, 2, 200, 800])
def test_cosine_is_half_a_period(epochs: int) -> None:
    rates = [cosine(epoch, base_lr=0.03, epochs=epochs) for epoch in range(epochs)]
    for epoch, rate in enumerate(rates):
        assert rate == pytest.approx(0.03 * math.cos(math.pi * epoch / epochs / 2) ** 2)
    assert rates[0] == 0.03 and all(a > b > 0 for a, b in zip(rates, rates[1:], strict=False))
    if epochs % 2 == 0:
        assert rates[epochs // 2] == pytest.approx(0.015)


def test_exponential_follows_the_paper() -> None:
    rate = by_name("exponential", base_lr=0.12, epochs=0, gamma=0.9, period=62500)
    lr = 0.12
    for block in range(20):
        assert rate(block * 62500) == rate(block * 62500 + 62499) == pytest.approx(lr)
        lr *= 0.9


@pytest.mark.parametrize("name", ["step", "cosine", "exponential"])
def test_warm_up_rises_in_a_line_and_hands_over(name: str) -> None:
    how = {"base_lr": 0.3, "steps": (6,), "period": 50, "per_epoch": 10}
    rate = by_name(name, epochs=12, warmup=2, **how)
    assert [rate(i) for i in range(20)] == pytest.approx([0.3 * i / 20 for i in range(20)])
    without = by_name(name, epochs=10 if name == "cosine" else 12, **how)
    later = 20 if name == "cosine" else 0  # the half period is that of a run of the other ten epochs
    assert [rate(i) for i in range(20, 120)] == [without(i - later) for i in range(20, 120)]
    assert rate(20) == 0.3


def test_by_iteration_the_rate_is_constant_within_an_epoch() -> None:
    rate = by_name("cosine", base_lr=1.0, epochs=4, per_epoch=10)
    assert [rate(i) for i in range(40)] == [cosine(i // 10, base_lr=1.0, epochs=4) for i in range(40)]
    rate = by_name("step", base_lr=1.0, epochs=4, steps=(2,), per_epoch=10)
    assert rate(19) == 1.0 and rate(20) == pytest.approx(0.1)


def test_linear_scaling_only_when_asked() -> None:
    assert linear_scaling(0.03, 1024) == 0.03
    assert linear_scaling(0.03, 1024, 256) == pytest.approx(0.12)
    assert linear_scaling(0.03, 64, 256) == pytest.approx(0.0075)


def test_by_name() -> None:
    assert by_name("cosine", base_lr=2.0, epochs=10)(5) == pytest.approx(1.0)
    assert by_name("step", base_lr=2.0, epochs=10, steps=(3,), gamma=0.5)(3) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="'linear'; it must be step, cosine or exponential"):
        by_name("linear", base_lr=2.0, epochs=10)
