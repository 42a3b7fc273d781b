"""Defines what a task must answer: which configs and annotations it takes, and how it is scored and linted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from transfer.config.lint import RATE, Finding
from transfer.data.dataset import Dataset
from transfer.data.missing import Missing
from transfer.data.spec import DatasetError
from transfer.evaluation.evaluator import Evaluator
from transfer.evaluation.protocols import PROTOCOLS, Protocol


def too_thin(height: int, width: int, short: int, longest: int) -> str | None:
    """Returns what is wrong with an image whose shorter edge vanishes when it is resized; None for any other.

    Args:
        short: pixels that the shorter edge is resized to; 0 resizes nothing.
        longest: pixels that the longer edge may have at most.
    """
    if not short or min(height, width) * min(short / min(height, width), longest / max(height, width)) >= 0.5:
        return None
    return f"is {width}x{height}: with its longer edge at {longest} pixels nothing is left of the shorter one"


class Task(ABC):
    """One kind of prediction. An engine has an adapter for it, or refuses it in its support table."""

    name: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]]
    """The entries of `evaluation.protocols.PROTOCOLS` that score this task."""
    rates: ClassVar[tuple[float, ...]] = (RATE,)
    """The papers' learning rates for 16 images per batch."""
    needs_objects: ClassVar[bool] = True
    """Whether an image without an annotated object teaches nothing (DATALOADER.FILTER_EMPTY_ANNOTATIONS)."""

    packages: ClassVar[tuple[str, ...]] = ("detectron2",)
    """What `installing.how_to_install` installs for this task on Detectron2."""

    @abstractmethod
    def applies(self, cfg: Mapping[str, Any]) -> bool:
        """Returns whether this is the task of a config."""

    @abstractmethod
    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, int]:
        """Returns the config key that holds the number of classes, and its value."""

    @abstractmethod
    def check_training(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        """Raises DatasetError if the annotations are not what training with this config needs."""

    @abstractmethod
    def check_test(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        """Raises DatasetError if the annotations are not what the protocol needs."""

    def missing(self) -> list[Missing]:
        """Returns the files that this task needs beside its data sets on any engine, and that do not exist."""
        return []

    def check_together(self, datasets: Sequence[Dataset]) -> None:
        """Raises DatasetError if data sets of one run, whose classes agree, do not fit together in another respect."""
        return

    def check_sizes(self, cfg: Mapping[str, Any], dataset: Dataset, training: bool) -> None:
        """Raises DatasetError for an image so elongated that its shorter edge vanishes when it is resized.

        Args:
            training: whether the data set is trained on; else it is tested on.
        """
        i = cfg["INPUT"]
        short, longest = (
            (min(i["MIN_SIZE_TRAIN"]), i["MAX_SIZE_TRAIN"]) if training else (i["MIN_SIZE_TEST"], i["MAX_SIZE_TEST"])
        )
        for record in dataset.records:
            if fault := too_thin(record["height"], record["width"], short, longest):
                raise DatasetError(
                    f"image {record['image_id']!r} of data set '{dataset.name}' {fault}; take it out, or raise "
                    "INPUT.MAX_SIZE"
                )

    @abstractmethod
    def evaluator(self, cfg: Mapping[str, Any], dataset: Dataset) -> Evaluator:
        """Returns a fresh evaluator of this config's predictions on a data set."""

    def lint(self, cfg: Mapping[str, Any]) -> Iterator[Finding]:
        """Yields findings where the config contradicts this task's recipe in the papers."""
        yield from ()

    def protocol(self, dataset: Dataset) -> Protocol:
        """Returns the protocol that scores this task on a data set.

        Raises:
            DatasetError: the data set has no such protocol.
        """
        return self.protocol_of(dataset.name, dataset.protocols)

    def protocol_of(self, dataset: str, protocols: Sequence[str]) -> Protocol:
        """Returns the one among a data set's protocols that scores this task; see `protocol`."""
        for name in protocols:
            if name in self.protocols:
                return PROTOCOLS[name]
        raise DatasetError(
            f"data set '{dataset}' is scored by {', '.join(protocols)}, none of which scores the task "
            f"'{self.name}' ({', '.join(self.protocols)}); give a data set of another format"
        )
