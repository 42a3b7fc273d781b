"""What a format of data sets must know: its spec file's keys, where its annotations lie, how they are read.

What is predicted is the task's affair (`transfer.tasks`), and how it is scored the protocol's (`transfer.evaluation`).
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
    """What a format has read of one split.

    Attributes:
        classes: names by contiguous category id.
        category_ids: the ids that result files use, by contiguous id.
        records: one per listed image; see `catalog.load`.
        missing: positions in `records` of images whose file is not there.
        truth: what the format's protocols need beside the records; None if nothing.
        keypoints: that every object may have; None if the set has none.
        left_out: annotated objects that the records lack, which the protocols count all the same.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    records: Sequence[Record]
    missing: frozenset[int] = frozenset()
    truth: Any = None
    keypoints: Keypoints | None = None
    left_out: int = 0


class Format(ABC):
    """One layout of images and annotations on disk."""

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
        """The splits that a spec file describes; `keys`: an instance of the class's `keys`."""

    @abstractmethod
    def check_spec(self, spec: DatasetSpec) -> None:
        """Raises DatasetError for a spec that lacks what this format needs."""

    @abstractmethod
    def place(self, spec: DatasetSpec) -> Path:
        """The file that lists the split's images."""

    @abstractmethod
    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        """Reads and validates everything but the images' pixels; what is wrong goes into `faults`.

        Raises:
            DatasetError: nothing can be read at all: no such file, or of another form.
        """

    @abstractmethod
    def sources(self, spec: DatasetSpec) -> Iterable[str | Path]:
        """Every annotation file of the split: when one of them changes, so does the data set."""

    @abstractmethod
    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Names in `evaluation.protocols.PROTOCOLS` of the protocols that can score it."""

    @abstractmethod
    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        """What defines the split, without looking at pixels: its annotations as bytes, and name and file per image."""

    def counts(self, contents: Contents) -> bool:
        """Whether anything is annotated that counts in evaluation, as far as is known without pixels."""
        return any(
            not (a["iscrowd"] or a.get("difficult")) for record in contents.records for a in record["annotations"]
        )

    def census(self, contents: Contents, name: str, faults: Faults) -> tuple[dict[str, int], dict[str, int]]:
        """Returns how much there is of every class, and how much of that is set aside (of some classes only).

        Args:
            name: of the data set, for a progress bar.
            faults: takes what only a look into annotation files of pixels can find.
        """
        every, aside = dict.fromkeys(contents.classes, 0), Counter[str]()
        for record in contents.records:
            for annotation in record["annotations"]:
                of = contents.classes[annotation["category_id"]]
                every[of] += 1
                aside[of] += bool(annotation["iscrowd"] or annotation.get("difficult"))
        return every, {of: n for of, n in aside.items() if n}

    def is_present(self, spec: DatasetSpec) -> bool:
        """Whether the split seems to be here, without reading it."""
        return self.place(spec).is_file()
