"""Computes learning rates as pure functions of the epoch or the iteration.

The reference sets the rate of "step" and "cosine" once per epoch, and so do we; "exponential" is for sets of a billion
images, where training sees little more than one epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pretrain.runtime.config import ConfigError


def step(epoch: int, *, base_lr: float, steps: Sequence[int] = (120, 160), gamma: float = 0.1) -> float:
    """Returns `base_lr`, times `gamma` for every element of `steps` that is at or before `epoch` (counted from 0)."""
    return base_lr * gamma ** sum(epoch >= s for s in steps)


def never_steps(steps: Sequence[int], epochs: int) -> list[str]:
    """Returns a caution if there are steps, but training ends before the first of them; else nothing."""
    if not steps or min(steps) < epochs:
        return []
    return [
        f"no step of SOLVER.STEPS {tuple(steps)} is reached in {epochs} epochs, so that the rate never falls; give "
        "steps before the end, or SOLVER.STEPS () if that is meant"
    ]


def cosine(epoch: int, *, base_lr: float, epochs: int) -> float:
    """Returns base_lr * (1 + cos(pi * epoch / epochs)) / 2, half a period; the last epoch's rate is small but not 0."""
    return base_lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def exponential(iteration: int, *, base_lr: float, gamma: float, period: int) -> float:
    """Returns `base_lr` times `gamma` after every `period` iterations (arXiv:1911.05722 on IG-1B: 0.9 every 62500)."""
    return base_lr * gamma ** (iteration // period)


def linear_scaling(base_lr: float, batch_size: int, reference_batch: int = 0) -> float:
    """Returns the rate for `batch_size` images if `base_lr` is right for `reference_batch`; 0 leaves it unchanged."""
    return base_lr * batch_size / reference_batch if reference_batch else base_lr


def by_name(
    name: str,
    *,
    base_lr: float,
    epochs: int,
    steps: Sequence[int] = (120, 160),
    gamma: float = 0.1,
    period: int = 62500,
    per_epoch: int = 1,
    warmup: int = 0,
) -> Callable[[int], float]:
    """Returns the learning rate as a function of the iteration, for "step", "cosine" or "exponential".

    Args:
        epochs: length of training, including warm-up (cosine).
        steps: epochs at which the rate is multiplied by `gamma` (step).
        period: iterations after which the rate is multiplied by `gamma` (exponential).
        per_epoch: iterations in an epoch; 1 makes "step" and "cosine" functions of the epoch.
        warmup: epochs in which the rate rises from 0 to `base_lr`, linearly over iterations. "cosine" is then half a
            period over the rest; "step" and "exponential" count from the start, as they do without warm-up.

    Raises:
        ConfigError: the name is none of these.
    """
    schedules: dict[str, Callable[[int], float]] = {
        "step": lambda iteration: step(iteration // per_epoch, base_lr=base_lr, steps=steps, gamma=gamma),
        "cosine": lambda iteration: cosine(iteration // per_epoch - warmup, base_lr=base_lr, epochs=epochs - warmup),
        "exponential": lambda iteration: exponential(iteration, base_lr=base_lr, gamma=gamma, period=period),
    }
    if name not in schedules:
        raise ConfigError(f"SOLVER.SCHEDULE is '{name}'; it must be step, cosine or exponential")
    after, rise = schedules[name], warmup * per_epoch  # iterations
    return lambda iteration: base_lr * iteration / rise if iteration < rise else after(iteration)
