"""Validates a file's contents as a pydantic model, and reports errors on one line: `file: field.path: what; remedy`.

Models set `strict=True` and `extra="forbid"`: a number in quotes is not a number, and an unknown field is an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

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
        kind: the model; its fields are suggested where a field is unknown.
    """
    known = set(_fields(kind, []))
    faults: dict[tuple[str, str], list[str]] = {}  # (place, value) -> what the members of a union say of it
    for fault in error.errors(include_url=False):
        place = fault["loc"]
        if len(place) > 1 and isinstance(place[-1], str) and _MEMBER.match(place[-1]):
            place = place[:-1]
        start, what = _fault(fault, known)
        said = faults.setdefault((_dotted(place), start), [])
        if what not in said:
            said.append(what)
    lines = [f"{place and f'{place}: '}{start}{' or '.join(said)}" for (place, start), said in faults.items()]
    more = f"; and {len(lines) - _SHOWN} more like these" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more


def _fault(fault: Any, known: set[str]) -> tuple[str, str]:
    """Returns the value, if it is to be shown, and what is wrong with it."""
    kind, text = fault["type"], fault["msg"]
    if kind in ("missing", "missing_argument"):
        return "", "is missing; add it"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return "", f"is not known{did_you_mean(str(fault['loc'][-1]), known) or '; remove it'}"
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


def _fields(kind: Any, seen: list[Any]) -> Iterator[str]:
    """Yields the names of a model's fields, and of the fields of the models in it."""
    if kind in seen:
        return
    seen.append(kind)
    fields: dict[str, Any] = {}
    is_class = isinstance(kind, type) and get_origin(kind) is None  # list[int] is an instance of type in Python 3.10
    if is_class and issubclass(kind, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    elif is_class and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for name, annotation in fields.items():
        yield name
        yield from _fields(annotation, seen)
    for part in get_args(kind):
        yield from _fields(part, seen)
