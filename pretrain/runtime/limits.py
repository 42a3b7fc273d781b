"""Checks that a config's numbers are within limits and its words among choices, by tables that a defaults tree has."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.wording import did_you_mean, short

MAX_SEED = 2**32 - 1  # what NumPy takes


@dataclass(frozen=True)
class Limit:
    """Says where a number must lie, or every number of a list, however nested.

    Values that are not numbers have no limits but `sizes`.

    Attributes:
        low, high: the smallest and the largest value allowed.
        open_low, open_high: whether `low` and `high` themselves are not allowed.
        sizes: the smallest and the largest number of elements of a list.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    sizes: tuple[float, float] = (0, math.inf)

    def problem(self, value: Any) -> str | None:
        """Returns what a value must be if it violates the limit."""
        if isinstance(value, (list, tuple)) and not self.sizes[0] <= len(value) <= self.sizes[1]:
            return f"it must have {self.count}"
        wrong = [number for number in _numbers(value) if not self._holds(number)]
        if not wrong:
            return None
        return f"it must be {self}" if value is wrong[0] else f"every number in it must be {self}"

    def _holds(self, number: float) -> bool:  # written so that NaN fails too
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)

    @property
    def count(self) -> str:
        """Returns in words how many elements a list has; empty if any number will do."""
        low, high = self.sizes
        if self.sizes == (0, math.inf):
            return ""
        if low == high:
            return f"{low} elements"
        return f"{low} elements or more" if high == math.inf else f"{low} to {high} elements"

    def __str__(self) -> str:
        low = f"above {self.low}" if self.open_low else f"at least {self.low}"
        high = f"below {self.high}" if self.open_high else f"at most {self.high}"
        return " and ".join([low] * (self.low != -math.inf) + [high] * (self.high != math.inf))


def at_least(low: float, **sizes: Any) -> Limit:
    return Limit(low, **sizes)


def above(low: float, **more: Any) -> Limit:
    return Limit(low, open_low=True, **more)


def between(low: float, high: float, **more: Any) -> Limit:
    return Limit(low, high, **more)


SHARE = between(0, 1)
MOMENTUM = between(0, 1, open_high=True)  # of SGD: with 1 it never forgets
DECAY = between(0, 1, open_low=True)  # what a learning rate is multiplied by


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from _numbers(element)
    elif isinstance(value, (int, float)):
        yield value


def check_values(cfg: Any, choices: Mapping[str, Collection[Any]], limits: Mapping[str, Limit]) -> None:
    """Refuses a key whose value is not among its `choices` or lies outside of its limits.

    Args:
        cfg: a merged tree that has all the keys.

    Raises:
        ConfigError: one sentence with the key, its value and what it must be.
    """
    for key, known in choices.items():
        if (value := _at(cfg, key)) not in known:
            names = [str(name) if str(name) else "''" for name in known]
            hint = did_you_mean(value, [name for name in known if name]) if isinstance(value, str) else ""
            raise ConfigError(f"{key} is {short(value)}; it must be {' or '.join(names)}{hint}")
    for key, limit in limits.items():
        if problem := limit.problem(value := _at(cfg, key)):
            raise ConfigError(f"{key} is {short(value)}; {problem}")


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
