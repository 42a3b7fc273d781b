"""Draws the random numbers of torch's CPU generator one by one, without the cost of a tensor for each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

F = np.float32
BLOCK = 64  # numbers that are made at a time; two views take about fifty


class Draws:
    """Draws what torch's functions of the same names draw after `torch.manual_seed(seed)`, bit for bit.

    Both are MT19937, and each function takes one number of 32 bits for each value. A loader draws some fifty values for
    an image; a tensor for each of them costs as much as the rest of a small view. torch's own generator is left alone.

    Args:
        seed: 0 or more.
    """

    _bits = np.random.MT19937(0)
    _state = np.random.RandomState(_bits)

    def __init__(self, seed: int):
        self._numbers = self._raw(seed & 0xFFFFFFFF)  # as torch, which seeds by 32 bits

    def _raw(self, seed: int) -> Iterator[int]:
        blocks = 0
        while True:
            self._state.seed(seed)  # of the class: making one costs more than seeding it
            yield from self._bits.random_raw((blocks + 1) * BLOCK).tolist()[blocks * BLOCK :]
            blocks += 1

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draws like `torch.empty(1).uniform_(low, high)`: a float32 of [low, high), or `high` itself by rounding."""
        low32 = F(low)
        return float(F((next(self._numbers) & 0xFFFFFF) * 2**-24 * float(F(high) - low32) + float(low32)))

    def below(self, end: int) -> int:
        """Draws like `torch.randint(end, (1,))`: 0 to end - 1, for `end` below 2^28 (torch takes more bits above)."""
        return next(self._numbers) % end

    def happens(self, probability: float) -> bool:
        """Draws like `torch.rand(1) < probability`."""
        return (next(self._numbers) & 0xFFFFFF) / 2**24 < probability

    def permutation(self, n: int) -> list[int]:
        """Draws like `torch.randperm(n)`."""
        order = list(range(n))
        for i in range(n - 1):
            j = i + self.below(n - i)
            order[i], order[j] = order[j], order[i]
        return order
