"""Validates a file's contents as a pydantic model, and reports errors on one line: `file: field.path: what; remedy`.

Models set `strict=True` and `extra="forbid"`: a number in quotes is not a number, and an unknown field is an error.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.wording import did_you_mean, short

T = TypeVar("T")

_SHOWN = 3  # faults in one message
# The names that pydantic gives to the members of a union, which follow the field in a fault's place.
_MEMBER = re.compile(r"(str|int|float|bool|none)$|(list|dict|tuple|literal|nullable|constrained-|function-)")


def validate(kind: type[T], data: object, source: object, raising: type[ExpectedError], remedy: str = "") -> T:
    """Returns `data`, plain lists and dicts, as a `kind`: a pydantic model, or a type made of such models.

    Args:
        source: the file, for the message.
        raising: the class of the error.
        remedy: what to do, if the faults do not say it themselves.

    Raises:
        raising: there are faults; one line puts the first three in words.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        raise raising(f"{source}: {in_words(error, kind)}{remedy and f'; {remedy}'}") from error


def validate_json(
    kind: type[T], text: str | bytes, source: object, raising: type[ExpectedError], remedy: str = ""
) -> T:
    """Returns JSON text as a `kind`, as `validate` does; text that is not JSON is a fault, too."""
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise raising(f"{source}: {in_words(error, kind)}{remedy and f'; {remedy}'}") from error


def in_words(error: ValidationError, kind: Any = None) -> str:
    """Returns pydantic's faults as `rows[0].name: is 3; it should be a valid string`, joined by semicolons.

    Args:
        kind: the model; where a field is unknown, those that stand at its place are suggested.
    """
    faults: dict[tuple[str, str], list[str]] = {}  # (place, value) -> what the members of a union say of it
    for fault in error.errors(include_url=False):
        place = fault["loc"]
        if len(place) > 1 and isinstance(place[-1], str) and _MEMBER.match(place[-1]):
            place = place[:-1]
        start, what = _fault(fault, kind)
        said = faults.setdefault((_dotted(place), start), [])
        if what not in said:
            said.append(what)
    lines = [f"{place and f'{place}: '}{start}{' or '.join(said)}" for (place, start), said in faults.items()]
    more = f"; and {len(lines) - _SHOWN} more like these" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more


def _fault(fault: Any, model: Any) -> tuple[str, str]:
    """Returns the value, if it is to be shown, and what is wrong with it."""
    kind, text = fault["type"], fault["msg"]
    if kind in ("missing", "missing_argument"):
        return "", "is missing; add it"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        *place, name = fault["loc"]
        return "", f"is not known{did_you_mean(str(name), _fields_at(model, place)) or '; remove it'}"
    if kind in ("value_error", "assertion_error"):  # a validator's own words
        return "", str(fault["ctx"]["error"])
    if kind == "json_invalid":
        return "", f"is no JSON ({fault['ctx']['error']})"
    start = f"is {short(fault['input'])}; it should "
    if text.startswith("Input should "):
        return start, text.removeprefix("Input should ")
    return f"is {short(fault['input'])}: ", text[:1].lower() + text[1:]


def _dotted(place: Sequence[int | str]) -> str:
    """Returns `rows[0].name` for ("rows", 0, "name"), on one line."""
    words = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if part != "[key]"]
    text = "".join(words).removeprefix(".")
    return text if len(text) <= 100 and text.isprintable() else short(text)


def _fields_at(kind: Any, place: Sequence[int | str]) -> set[str]:
    """Returns the names of the fields that may stand at a place inside a model."""
    kinds = _members(kind)
    for part in place:
        below = [member for one in kinds for inner in _inside(one, part) for member in _members(inner)]
        named = [one for one in kinds if getattr(one, "__name__", None) == part]
        kinds = below or named or kinds  # pydantic puts which member of a union it means into the place
    return {name for one in kinds for name in _fields(one)}


def _members(kind: Any) -> list[Any]:
    """Returns what a type may be: itself, or the members of a union, without the annotations."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [member for part in get_args(kind) for member in _members(part)]
    return [kind]


def _inside(kind: Any, part: int | str) -> list[Any]:
    """Returns the types of a field, of the elements of a list, or of the values of a mapping."""
    if part in (fields := _fields(kind)):
        return [fields[str(part)]]
    args = [one for one in get_args(kind) if one is not Ellipsis]
    return args[-1:] if args and (isinstance(part, int) or get_origin(kind) is dict) else []


def _fields(kind: Any) -> dict[str, Any]:
    """Returns name -> type of the fields of a model, or of a dataclass; of anything else none."""
    if not isinstance(kind, type) or get_origin(kind) is not None:  # list[int] is an instance of type in Python 3.10
        return {}
    if issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}
