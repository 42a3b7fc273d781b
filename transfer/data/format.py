"""Defines what a format of data sets knows: its spec file's keys, where its annotations lie and how they are read.

A task (`transfer.tasks`) says what is predicted, and a protocol (`transfer.evaluation`) how it is scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from transfer.data.faults import Faults
from transfer.data.keypoints import Keypoints
from transfer.data.spec import DatasetSpec, Record


@dataclass(frozen=True)
class Contents:
    """Holds what a format has read of one split.

    Attributes:
        classes: names by contiguous category id.
        category_ids: the ids that result files use, by contiguous id.
        records: one per listed image; see `catalog.load`.
        missing: positions in `records` of images whose file does not exist.
        truth: what the format's protocols need beside the records; None if they need nothing.
        keypoints: the keypoints that every object may have; None if the set has none.
        left_out: number of annotated objects that the records lack but the protocols still count.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    records: Sequence[Record]
    missing: frozenset[int] = frozenset()
    truth: Any = None
    keypoints: Keypoints | None = None
    left_out: int = 0


class Format(ABC):
    """Reads one layout of images and annotations on disk."""

    name: ClassVar[str]
    keys: ClassVar[type[BaseModel]]
    """The keys of a spec file of this format, beside `format`."""
    set_aside: ClassVar[str]
    """What its objects are called that do not count in evaluation: "difficult", "crowd"."""
    masks: ClassVar[bool] = False
    """Whether its objects may have masks."""
    counted: ClassVar[str] = "boxes"
    """What a class is counted in."""
    absent: ClassVar[str] = "no object of a listed class, whose AP is then undefined or 0"
    """What is said of a class of which there is nothing."""
    pixels: ClassVar[bool] = False
    """Whether annotations are pixels, which `census` holds against the classes: a run then calls it once."""

    @abstractmethod
    def specs(self, keys: Any, file: Path) -> list[DatasetSpec]:
        """Returns the splits that a spec file describes; `keys` is an instance of the class's own `keys`."""

    @abstractmethod
    def check_spec(self, spec: DatasetSpec) -> None:
        """Raises DatasetError if a spec lacks what this format needs."""

    @abstractmethod
    def place(self, spec: DatasetSpec) -> Path:
        """Returns the file that lists the split's images."""

    @abstractmethod
    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        """Reads and validates everything but the images' pixels; what is wrong goes into `faults`.

        Raises:
            DatasetError: nothing can be read at all, since there is no such file or it has another form.
        """

    @abstractmethod
    def sources(self, spec: DatasetSpec) -> Iterable[str | Path]:
        """Returns every annotation file of the split; when one of them changes, so does the data set."""

    @abstractmethod
    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Returns the protocols that can score the split, by their names in `evaluation.protocols.PROTOCOLS`."""

    @abstractmethod
    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        """Returns what defines the split beside pixels: its annotations as bytes, and each image's name and file."""

    def counts(self, contents: Contents) -> bool:
        """Returns whether anything annotated counts in evaluation, as far as is known without reading pixels."""
        return any(
            not (a["iscrowd"] or a.get("difficult")) for record in contents.records for a in record["annotations"]
        )

    def census(self, contents: Contents, name: str, faults: Faults) -> tuple[dict[str, int], dict[str, int]]:
        """Returns how much there is of every class, and, for some classes only, how much of that is set aside.

        Args:
            name: the data set's name, for a progress bar.
            faults: collects faults that only reading annotations of pixels can find.
        """
        every, aside = dict.fromkeys(contents.classes, 0), Counter[str]()
        for record in contents.records:
            for annotation in record["annotations"]:
                of = contents.classes[annotation["category_id"]]
                every[of] += 1
                aside[of] += bool(annotation["iscrowd"] or annotation.get("difficult"))
        return every, {of: n for of, n in aside.items() if n}

    def is_present(self, spec: DatasetSpec) -> bool:
        """Returns whether the split seems to be here, without reading it."""
        return self.place(spec).is_file()
