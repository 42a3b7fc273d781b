"""Specifies a dataset: its name, where its images and annotations lie, and which classes it holds."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pretrain.runtime.errors import ExpectedError

Record = dict[str, Any]
"""One image in Detectron2's standard form; boxes are XYXY absolute pixels. See `catalog.load`."""


class DatasetError(ExpectedError, ValueError):
    """Says that a dataset cannot be used as asked; the message names the value, the file and the remedy."""


def _text(value: Any) -> Any:
    """Turns a number where a YAML file needs a name, such as `name: 2024`, into text as written."""
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{value!r} holds half a character (a lone surrogate); write it out")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
"""A name in a spec file."""
Names = Annotated[list[Text], Field(min_length=1)]


@dataclass(frozen=True)
class DatasetSpec:
    """Specifies one split of one dataset.

    Attributes:
        name: its name in configs, e.g. "voc_2007_test"; files are named after it, too.
        format: a key of `formats.FORMATS`, which says how images and annotations lie on disk.
        root: the folder that holds it, as the format says.
        split: name of the split, e.g. "trainval"; in VOC the stem of a file in ImageSets/Main.
        classes: names in the order of the contiguous category ids 0, 1, ...; None takes the annotations' own.
        year: VOC only, year of the metric: 2007 is 11-point AP, 2012 the area under the curve.
        image_root: the folder that images' names are relative to (in COCO those in `json_file`).
        json_file: COCO only, the instances json.
        flip_pairs: names of keypoints that swap under a horizontal flip; None takes those named left and right.
        outside: COCO only, whether images' names may lead out of `image_root`.
        layout: whatever else the format must know, in a type of its own.
        remedy: where to get the dataset, for errors about missing files; empty if that is not known.

    Raises:
        DatasetError: the format is unknown, something that it needs is absent, or a class is listed twice.
    """

    name: str
    format: str
    root: Path
    split: str
    classes: tuple[str, ...] | None = None
    year: int | None = None
    image_root: Path | None = None
    json_file: Path | None = None
    flip_pairs: tuple[tuple[str, str], ...] | None = None
    outside: bool = False
    layout: Any = None
    remedy: str = field(default="", compare=False)

    @property
    def official(self) -> bool:
        """Returns whether papers report on this set, so that its number of images must be the published one."""
        return bool(self.remedy)

    def __post_init__(self) -> None:
        from transfer.data.formats import format_of  # a format reads specs

        format_of(self).check_spec(self)
        for what, word in (("name", self.name), ("split", self.split)):
            if not re.fullmatch(r"[^/\\\x00-\x1f\x7f]+", word) or word.startswith(".") or len(os.fsencode(word)) > 100:
                raise DatasetError(
                    f"dataset '{one_line(self.name)}': {what} '{one_line(word)}' cannot be part of a file's name; "
                    "give at most 100 bytes, no slash, no control character, and no dot in front"
                )
        for name in self.classes or ():
            if not name.strip() or not name.isprintable():
                raise DatasetError(f"dataset '{self.name}': class '{one_line(name)}' is no printable name; rename it")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise DatasetError(f"dataset '{self.name}': classes listed twice: {', '.join(twice)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns the tail of an error message, '; did you mean a or b?', or nothing when no known word is close."""
    words = sorted(set(known))
    by_lower = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[w] for w in close)}?" if close else ""


def sizes_in(paths: Iterable[Path]) -> Iterator[int | None]:
    """Yields the byte size of each file in order, None for one that does not exist."""
    for path in paths:
        try:
            yield path.stat().st_size
        except (OSError, ValueError):  # not there, or no name that a file can have
            yield None


def few(values: Iterable[object], n: int = 3) -> str:
    """Returns the first values of a list for a message: 'a, b, c and 14 more'."""
    shown = [one_line(v) for v in values]
    rest = len(shown) - n
    return ", ".join(shown[:n]) + (f" and {rest} more" if rest > 0 else "")


def one_line(value: object, limit: int = 400) -> str:
    """Returns a value for a message: on one line, with control characters escaped, cut in the middle if it is long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 4 :]}"


def path_in(base: Path, text: str) -> Path:
    """Returns `text` with `~` and `$VARIABLES` expanded, relative to `base`.

    Raises:
        DatasetError: a variable is not set, or there is a NUL character.
    """
    expanded = os.path.expandvars(os.path.expanduser(text))
    if "$" in expanded:
        raise DatasetError(f"path '{one_line(text)}' names an environment variable that is not set")
    if "\0" in expanded:
        raise DatasetError(f"path '{one_line(text)}' holds a NUL character")
    return base / expanded
