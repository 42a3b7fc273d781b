"""Formats text for people: shows hidden characters, puts any value on one line, and suggests the nearest names."""

from __future__ import annotations

import difflib
import logging
import reprlib
import unicodedata
from collections.abc import Collection
from typing import Any

_LENGTH = 60  # characters of a value that a message shows

_KEPT = "\n\t\u200c\u200d"  # line ends, tabs, and what joins or parts letters in Persian, in Hindi and in emoji


def visible(text: str) -> str:
    """Returns the text with invisible characters written out, as in `\\x1b` or `\\u202e`.

    Such characters move a terminal's cursor, change the direction of writing, have no width, or are half a character: a
    file or a class with such a name could make a line of a log or a report say something else.
    """
    if text.isprintable():
        return text
    return "".join(c if c in _KEPT or not _is_hidden(c) else repr(c)[1:-1] for c in text)


def _is_hidden(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")


class VisibleFormatter(logging.Formatter):
    """Formats log lines with invisible characters written out."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return f"{x:#x}" if x.bit_length() > 1000 else repr(x)  # decimal digits are refused from 4300 on


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, _LENGTH, _LENGTH


def short(value: Any) -> str:
    """Returns the value as in code, on one line, cut in the middle if it is long."""
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 2 * _LENGTH else f"{text[:_LENGTH]}...{text[-20:]}"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Returns `; did you mean A or B?` with the known names nearest to a wrong one, "" if none is near."""
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    last = name.rsplit(".", 1)[-1]
    nearest = nearest or sorted(k for k in known if k.rsplit(".", 1)[-1] == last)[:3]
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
