"""What a format of data sets must know: its spec file's keys, where its annotations lie, how they are read.

What is predicted is the task's affair (`transfer.tasks`), and how it is scored the protocol's (`transfer.evaluation`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from transfer.data.faults import Faults
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
        left_out: annotated objects that the records lack, which the protocols count all the same.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    records: Sequence[Record]
    missing: frozenset[int] = frozenset()
    truth: Any = None
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
    def sources(self, spec: DatasetSpec) -> Iterable[Path]:
        """Every annotation file of the split: when one of them changes, so does the data set."""

    @abstractmethod
    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Names in `evaluation.protocols.PROTOCOLS` of the protocols that can score it."""

    @abstractmethod
    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        """What defines the split, without looking at pixels: its annotations as bytes, and name and file per image."""

    def is_present(self, spec: DatasetSpec) -> bool:
        """Whether the split seems to be here, without reading it."""
        return self.place(spec).is_file()
