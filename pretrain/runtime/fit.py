"""Checks that a value fits its default: the same type down to the elements of lists, finite, of bounded size."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.wording import short

MAX_INT = 2**63 - 1  # what torch and numpy hold
_MAX_WORD = 100_000  # characters of an option that is looked into
_MAX_DEPTH = 4  # of lists in lists
_ANYTHING = object()  # the default of an element of a list that is empty by default


def fitted(value: Any, default: Any, key: str, source: str) -> Any:
    """Returns `value` as the tree stores it.

    Text is read as a Python literal (`1e-3`, `(1, 2)`, `True`) unless the default is text. A whole number becomes a
    float if the default is one; lists and tuples take the default's type. Elements of lists keep their own type, even
    whole numbers among floats. If the default is None, None and numbers fit.

    Args:
        default: a value of the right type; for lists, its elements are the examples of the right type.
        key, source: name the value in errors.

    Raises:
        ConfigError: the value does not fit.
    """
    if isinstance(default, Mapping):
        example = next((f", e.g. {key}.{name}" for name in default), "")
        raise ConfigError(f"{source}: {key} is {short(value)}, but it is a group of keys; set those{example}")
    if isinstance(value, str):
        value = _meant(value, isinstance(default, str))
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        value = type(default)(value)
    elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= MAX_INT else value
    if problem := _misfit(value, default, key):
        raise ConfigError(f"{source}: {problem}")
    return value


def _meant(word: str, text: bool) -> Any:
    """Returns the Python literal that a word spells.

    It is the word itself if that spells no literal, or if text is wanted and the literal is none.
    """
    if len(word) > _MAX_WORD:
        return word
    try:
        said = ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word
    return said if isinstance(said, str) or not text else word


def _misfit(value: Any, default: Any, place: str, depth: int = 0) -> str | None:
    """Returns in words what is wrong with a value; None if it fits."""
    problem = _kind_problem(value, default, depth) or _value_problem(value)
    if problem:
        return f"{place} is {short(value)}; {problem}"
    if isinstance(value, (list, tuple)):
        example = default[0] if isinstance(default, (list, tuple)) and default else _ANYTHING
        for i, element in enumerate(value):
            if problem := _misfit(element, example, f"{place}[{i}]", depth + 1):
                return problem
    return None


def _kind_problem(value: Any, default: Any, depth: int) -> str | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "give True or False"
    if default is None:
        return None if number or value is None else "give a number, or None"
    if isinstance(default, int):
        whole = number and isinstance(value, int)
        return None if whole else f"give a whole number, e.g. {round(value) if _near_int(value) else default}"
    if isinstance(default, float):
        return None if number else f"give a number, e.g. {default}"
    if isinstance(default, str):
        return None if isinstance(value, str) else "give text, in quotes if it looks like something else"
    if depth > _MAX_DEPTH:
        return "these are too many lists in lists"
    if default is _ANYTHING:
        return None if number or isinstance(value, (str, bool, list, tuple)) else "give text, a number or a list"
    return None if isinstance(value, (list, tuple)) else f"give a list, e.g. {short(default) if default else '[...]'}"


def _near_int(value: Any) -> bool:
    return isinstance(value, float) and abs(value) < MAX_INT and value == round(value)


def _value_problem(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "give a finite number"
    if isinstance(value, int) and abs(value) > MAX_INT:
        return f"give a number between -{MAX_INT} and {MAX_INT}"
    if isinstance(value, str) and any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in value):
        return "it has characters that no name has; delete them"
    return None
