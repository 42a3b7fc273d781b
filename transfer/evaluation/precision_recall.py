"""Provides curves of precision over recall at IoU .5, for VOC and COCO sets alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transfer.evaluation.evaluator import Scores
from transfer.evaluation.protocols import PROTOCOLS

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PrecisionRecall:
    """Holds the curves of one trial on one test set.

    Attributes:
        label: name of the area under a curve, e.g. "AP50".
        mean_score: mean score over classes in percent, by the data set's own metric.
        scores: class -> the class's own score.
        curves: class -> (recall, precision), both (N,) in [0, 1], as the metric's evaluation gives them.
    """

    label: str
    mean_score: float
    scores: Mapping[str, float]
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def sampled(self) -> dict[str, np.ndarray]:
        """Returns class -> best precision at each of `RECALLS` or more, (101,), 0 where a recall is not reached."""
        return {name: at_recalls(*curve) for name, curve in self.curves.items()}

    def mean(self) -> np.ndarray:
        """Returns the mean of `sampled` over classes, (101,)."""
        return np.mean(list(self.sampled().values()), axis=0) if self.curves else np.zeros(len(RECALLS))


def precision_recall(scores: Scores) -> PrecisionRecall | None:
    """Returns the curves in a protocol's scores, or None if the protocol has none."""
    metric = PROTOCOLS[scores.protocol].metric(scores.curve_metric)
    if not scores.curves or metric is None:
        return None
    per_class = {c: values.get(metric.key) for c, values in scores.per_class.items()}
    single = {
        name: 100 * float(np.mean(precision)) if (ap := per_class.get(name)) is None else ap
        for name, (_, precision) in scores.curves.items()
    }
    return PrecisionRecall(metric.label, scores.metrics[metric.key], single, scores.curves)


def at_recalls(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Returns the best precision at each of `RECALLS` or more, 0 where it is not reached: (N,), (N,) -> (101,)."""
    best_after = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_after[np.searchsorted(recall, RECALLS, side="left")]
