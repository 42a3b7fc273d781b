"""Learning rates as pure functions of the epoch.

The reference sets the rate once per epoch, for both schedules, and so do we; there is no warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from pretrain.runtime.config import ConfigError


def step(epoch: int, *, base_lr: float, steps: Sequence[int] = (120, 160), gamma: float = 0.1) -> float:
    """`base_lr` times `gamma` for every element of `steps` that is not after `epoch` (from 0)."""
    return base_lr * gamma ** sum(epoch >= s for s in steps)


def cosine(epoch: int, *, base_lr: float, epochs: int) -> float:
    """Half a period: base_lr * (1 + cos(pi * epoch / epochs)) / 2; the last epoch's rate is small but not zero."""
    return base_lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def by_name(
    name: str, *, base_lr: float, epochs: int, steps: Sequence[int] = (120, 160), gamma: float = 0.1
) -> Callable[[int], float]:
    """epoch -> learning rate, for "step" or "cosine". Raises ConfigError for another name."""
    if name == "step":
        return partial(step, base_lr=base_lr, steps=steps, gamma=gamma)
    if name == "cosine":
        return partial(cosine, base_lr=base_lr, epochs=epochs)
    raise ConfigError(f"SOLVER.SCHEDULE is '{name}'; it must be step or cosine")
