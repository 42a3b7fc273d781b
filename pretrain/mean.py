"""Keeps running means of what a training step measures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretrain.runtime import dist


@dataclass
class Mean:
    """Averages the loss and a step's scalars over iterations; the sums stay on the device until somebody asks.

    Attributes:
        sums: the sums in the order of `names`, then the number of iterations.
        names: names of what is summed, taken from the first step.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    names: tuple[str, ...] = ("loss", "acc1")

    def add(self, loss: Tensor, scalars: dict[str, Tensor]) -> None:
        values = torch.stack([x.double() for x in (loss, *scalars.values(), torch.ones_like(loss))])
        known = self.names == (names := ("loss", *scalars))
        self.sums, self.names = self.sums.to(loss.device) + values if known else values, names

    def reset(self) -> None:
        self.sums = torch.zeros_like(self.sums)

    def over_processes(self) -> dict[str, float]:
        """Returns the means over iterations and processes by name, NaN if there are none; every process must call."""
        *sums, count = dist.all_gather(self.sums.unsqueeze(0)).sum(0).tolist()
        return {name: value / count if count else math.nan for name, value in zip(self.names, sums, strict=True)}
