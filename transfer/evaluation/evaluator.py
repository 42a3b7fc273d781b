"""What scores predictions, the same on both engines: `add` as they come, `merge` over processes, then `scores`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transfer.evaluation.predictions import EvaluationError

Curve = tuple[np.ndarray, np.ndarray]
"""(recall, precision), both (N,) in [0, 1]."""


@dataclass(frozen=True)
class Scores:
    """What a protocol says of predictions on one data set.

    Attributes:
        protocol: its name in `protocols.PROTOCOLS`.
        metrics: key -> points (percent); NaN where a number is undefined.
        per_class: class -> metric key -> points, NaN where undefined.
        curves: class -> precision over recall, for protocols that have them.
        curve_metric: key of the metric that is the area under these curves.
        undefined: key of a metric that is NaN -> why, in a sentence.
        notes: what a reader of the numbers must know.
    """

    protocol: str
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    curve_metric: str = ""

    def details(self) -> dict[str, Any]:
        """Returns what `RunResult.extra` keeps of them, beside the metrics."""
        return {"protocol": self.protocol, "per_class": dict(self.per_class), "undefined": dict(self.undefined)}

    def to_json(self) -> dict[str, Any]:
        """Returns metrics and details as JSON values; what is undefined is None."""
        per_class = {c: _defined(values) for c, values in self.per_class.items()}
        return {**self.details(), "metrics": _defined(self.metrics), "per_class": per_class, "notes": [*self.notes]}


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if np.isfinite(value) else None for key, value in values.items()}


class Evaluator(ABC):
    """Scores the predictions of a model on one data set.

    Every process adds its share; then one of them merges the states of all, and asks for the scores. It keeps what its
    scores need and no more: detections, or a confusion matrix, but never maps of pixels.
    """

    def __init__(self) -> None:
        self._seen: set[str | int] = set()

    @abstractmethod
    def add(self, prediction: Any) -> None:
        """Takes the prediction of one image.

        Raises:
            EvaluationError: of an image that is not of the data set, or that was there before; or of values that cannot
                be scored.
        """

    @abstractmethod
    def state(self) -> Any:
        """Returns what was added, to be sent to another process."""

    @abstractmethod
    def merge(self, states: Iterable[Any]) -> None:
        """Takes the states of all processes, this one's included, in place of what was added here."""

    @abstractmethod
    def scores(self) -> Scores:
        """Returns the scores of everything added."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the predictions to files in a run's folder, which later stages read."""

    def summarise(self, folder: Path, scores: Scores) -> None:  # noqa: B027  maps have none
        """Writes what reports show of the predictions, so that they need not be read again; by default nothing.

        Args:
            folder: where `save` has written.
            scores: what `scores` gave.
        """

    def _once(self, image_id: str | int, known: Mapping[str | int, Any]) -> None:
        """Raises EvaluationError if an image is not among the data set's, or comes twice."""
        if image_id not in known:
            example = next(iter(known), None)
            raise EvaluationError(
                f"predictions of image {image_id!r}, which the dataset lacks; it has e.g. {example!r}"
            )
        if image_id in self._seen:
            raise EvaluationError(f"two sets of predictions for image {image_id!r}; evaluate each image once")
        self._seen.add(image_id)
