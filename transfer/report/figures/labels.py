"""Fits names into figures: says how wide they are, and breaks them into lines or cuts them.

The browser chooses the font, so a width is an estimate: that of DejaVu Sans, which is wider than most screens' fonts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from transfer.report.figures.svg import FONT

LINE = 14.5  # pixels from one line of a name to the next
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def width(words: str) -> float:
    """Returns the width of words in pixels at the size of a figure's text."""
    return FONT * sum(map(_ems, words))


def _ems(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.05
    return 0.3 if letter in " .,:;'|ijl" else 0.8 if letter.isupper() or letter in "mw@%&" else 0.62


def shortened(words: str, room: float) -> str:
    """Returns the words, their end replaced by an ellipsis if they are wider than `room` pixels."""
    if width(words) <= room:
        return words
    while words and width(words + ELLIPSIS) > room:
        words = words[:-1]
    return words.rstrip() + ELLIPSIS


def wrapped(words: str, room: float) -> list[str]:
    """Breaks words into lines of at most `room` pixels, at spaces, or within a word that is wider than a line."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if width(joined) <= room:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and width(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines


def widest(words: Sequence[str]) -> float:
    return max(map(width, words), default=0.0)
