"""What names a dataset: where its images and annotations lie, and which classes it holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pretrain.runtime.errors import ExpectedError

Record = dict[str, Any]
"""One image in Detectron2's standard form; boxes are XYXY absolute pixels. See `catalog.load`."""


class DatasetError(ExpectedError, ValueError):
    """A dataset that cannot be used as asked; the message names the value, the file and the remedy."""


@dataclass(frozen=True)
class DatasetSpec:
    """One split of one dataset.

    Attributes:
        name: what configs call it, e.g. "voc_2007_test".
        format: "voc" (XML per image, id list per split) or "coco" (one instances json per split).
        root: VOC: the folder with Annotations, ImageSets and JPEGImages. COCO: what the paths below were relative to.
        split: e.g. "trainval"; in VOC the stem of a file in ImageSets/Main.
        classes: names in the order of the contiguous category ids 0, 1, ...; None (COCO only) takes the json's.
        year: VOC only, which metric evaluates it: 2007 is 11-point AP, 2012 the area under the curve.
        image_root: COCO only, the folder that the json's file names are relative to.
        json_file: COCO only, the instances json.
        remedy: where to get it, for errors about what is missing; empty if that is not known.
    """

    name: str
    format: Literal["voc", "coco"]
    root: Path
    split: str
    classes: tuple[str, ...] | None = None
    year: Literal[2007, 2012] | None = None
    image_root: Path | None = None
    json_file: Path | None = None
    remedy: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.format == "voc":
            if not self.classes:
                raise DatasetError(f"dataset '{self.name}': the VOC layout holds no class list; give `classes`")
            if self.year not in (2007, 2012):
                raise DatasetError(
                    f"dataset '{self.name}': year is {self.year!r}; "
                    "give 2007 (11-point AP) or 2012 (area under the curve)"
                )
        elif self.format == "coco":
            if self.image_root is None or self.json_file is None:
                raise DatasetError(f"dataset '{self.name}': a COCO dataset needs an image folder and a json file")
        else:
            raise DatasetError(f"dataset '{self.name}': format is {self.format!r}; known formats are 'voc' and 'coco'")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise DatasetError(f"dataset '{self.name}': classes listed twice: {', '.join(twice)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean a or b?', or nothing when no known word is close: the tail of an error message."""
    words = sorted(set(known))
    by_lower = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[w] for w in close)}?" if close else ""


def sizes_in(paths: Iterable[Path]) -> Iterator[int | None]:
    """Byte size of each file, None for one that does not exist. Yields in order."""
    for path in paths:
        try:
            yield path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            yield None


def few(values: Iterable[object], n: int = 3) -> str:
    """The first values of a list for a message: 'a, b, c and 14 more'."""
    shown = [str(v) for v in values]
    rest = len(shown) - n
    return ", ".join(shown[:n]) + (f" and {rest} more" if rest > 0 else "")
