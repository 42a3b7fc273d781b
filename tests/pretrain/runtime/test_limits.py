"""Limits of numbers and lists, and the sentence that a value outside of them gets."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.limits import DECAY, MOMENTUM, SHARE, Limit, above, at_least, between, check_values


@pytest.mark.parametrize(
    ("limit", "inside", "outside"),
    [
        (at_least(1), [1, 2.5, None, "text", (), (1, 2)], [0, 0.99, -1, math.nan, (1, 0), [[2], [0.5]]]),
        (above(0), [1e-9, (1, 2)], [0, 0.0, -1, math.nan, [1, 0]]),
        (between(0, 5), [0, 5, 2], [-1, 6, math.nan]),
        (SHARE, [0, 1, 0.5], [-0.1, 1.1, math.nan]),
        (MOMENTUM, [0.0, 0.999], [1.0, -0.1]),
        (DECAY, [1.0, 1e-9], [0.0, 1.1]),
        (at_least(0, sizes=(2, 2)), [(1, 2)], [(1,), (1, 2, 3), ()]),
        (at_least(0, sizes=(1, math.inf)), [(1,), ["x", "y"]], [()]),
    ],
)
def test_what_lies_within(limit: Limit, inside: list[Any], outside: list[Any]) -> None:
    assert [limit.problem(value) for value in inside] == [None] * len(inside)
    assert all(limit.problem(value) for value in outside)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"A": {"N": 0}}, "A.N is 0; it must be at least 1"),
        ({"A": {"S": (0.5, 2.0)}}, "A.S is (0.5, 2.0); every number in it must be above 0 and at most 1"),
        ({"A": {"S": (0.5,)}}, "A.S is (0.5,); it must have 2 elements"),
        ({"A": {"S": ()}}, "A.S is (); it must have 2 elements"),
        ({"W": "stepp"}, "W is 'stepp'; it must be step or cosine or ''; did you mean step?"),
        ({"W": 3}, "W is 3; it must be step or cosine or ''"),
    ],
)
def test_one_sentence(values: dict[str, Any], message: str) -> None:
    tree = {"W": "step", **values, "A": {"N": 1, "S": (0.5, 1.0), **values.get("A", {})}}
    limits = {"A.N": at_least(1), "A.S": between(0, 1, open_low=True, sizes=(2, 2))}
    with pytest.raises(ConfigError) as caught:
        check_values(tree, {"W": ("step", "cosine", "")}, limits)
    assert str(caught.value) == message
