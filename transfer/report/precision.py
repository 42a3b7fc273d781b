"""Precision over recall at IoU .5 of saved detections, of VOC and COCO sets alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transfer.data.dataset import Dataset
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import ImageDetections
from transfer.tasks.instances import INSTANCES

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PrecisionRecall:
    """One trial on one test set.

    Attributes:
        label: what the area under a curve is called, e.g. "AP50".
        mean_score: percent, mean over classes, by the data set's own metric.
        scores: class -> its own.
        curves: class -> (recall, precision), both (N,) in [0, 1], as the metric's evaluation gives them.
    """

    label: str
    mean_score: float
    scores: Mapping[str, float]
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def sampled(self) -> dict[str, np.ndarray]:
        """Class -> the best precision at each of `RECALLS` or more: (101,), 0 where a recall is not reached."""
        return {name: at_recalls(*curve) for name, curve in self.curves.items()}

    def mean(self) -> np.ndarray:
        """Mean of `sampled` over classes: (101,)."""
        return np.mean(list(self.sampled().values()), axis=0) if self.curves else np.zeros(len(RECALLS))


def precision_recall(dataset: Dataset, detections: Sequence[ImageDetections]) -> PrecisionRecall | None:
    """Scores saved detections by the data set's protocol; None if it has no curves.

    Raises:
        EvaluationError: detections that are not of this set.
    """
    protocol = INSTANCES.protocol(dataset)
    evaluator = protocol.evaluator(dataset)
    evaluator.merge([detections])
    found: Scores = evaluator.scores()
    metric = protocol.metric(found.curve_metric)
    if not found.curves or metric is None:
        return None
    per_class = {c: values.get(metric.key) for c, values in found.per_class.items()}
    scores = {
        name: 100 * float(np.mean(precision)) if (ap := per_class.get(name)) is None else ap
        for name, (_, precision) in found.curves.items()
    }
    return PrecisionRecall(metric.label, found.metrics[metric.key], scores, found.curves)


def at_recalls(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """(N,), (N,) -> (101,): the best precision at each of `RECALLS` or more, 0 where it is not reached."""
    best_after = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_after[np.searchsorted(recall, RECALLS, side="left")]
