"""Defines what scores predictions on both engines: `add` each as it comes, `merge` over processes, then `scores`."""

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
    """Holds a protocol's scores of predictions on one data set.

    Attributes:
        protocol: the protocol's name in `protocols.PROTOCOLS`.
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
        """Returns what `RunResult.extra` keeps of the scores, beside the metrics."""
        return {"protocol": self.protocol, "per_class": dict(self.per_class), "undefined": dict(self.undefined)}

    def to_json(self) -> dict[str, Any]:
        """Returns metrics and details as JSON values; undefined numbers are None."""
        per_class = {c: _defined(values) for c, values in self.per_class.items()}
        return {**self.details(), "metrics": _defined(self.metrics), "per_class": per_class, "notes": [*self.notes]}


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if np.isfinite(value) else None for key, value in values.items()}


class Evaluator(ABC):
    """Scores the predictions of a model on one data set.

    Every process adds its share; then one of them merges all states and asks for the scores. An evaluator keeps no
    more than its scores need: detections, or a confusion matrix, but never maps of pixels.
    """

    def __init__(self) -> None:
        self._seen: set[str | int] = set()

    @abstractmethod
    def add(self, prediction: Any) -> None:
        """Takes the prediction of one image.

        Raises:
            EvaluationError: the image is not in the data set or was added before, or values cannot be scored.
        """

    @abstractmethod
    def state(self) -> Any:
        """Returns what was added, to be sent to another process."""

    @abstractmethod
    def merge(self, states: Iterable[Any]) -> None:
        """Replaces what was added here by the states of all processes, this one's included."""

    @abstractmethod
    def scores(self) -> Scores:
        """Returns the scores of everything added."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the predictions to files in a run's folder, which later stages read."""

    def summarise(self, folder: Path, scores: Scores) -> None:  # noqa: B027  maps have none
        """Writes what reports show of the predictions, so that reports need not read them; by default nothing.

        Args:
            folder: the folder that `save` has written to.
            scores: the result of `scores`.
        """

    def _once(self, image_id: str | int, known: Mapping[str | int, Any]) -> None:
        """Raises EvaluationError if an image is not in the data set or comes twice."""
        if image_id not in known:
            example = next(iter(known), None)
            raise EvaluationError(
                f"predictions of image {image_id!r}, which the dataset lacks; it has e.g. {example!r}"
            )
        if image_id in self._seen:
            raise EvaluationError(f"two sets of predictions for image {image_id!r}; evaluate each image once")
        self._seen.add(image_id)
