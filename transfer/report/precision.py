"""Precision over recall at IoU .5 of saved detections, of VOC and COCO sets alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transfer.data import catalog
from transfer.data.catalog import DatasetSpec, Record
from transfer.evaluation.coco_ap import coco_average_precision
from transfer.evaluation.predictions import ImageDetections
from transfer.evaluation.voc_ap import voc_average_precision

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PrecisionRecall:
    """One trial on one test set.

    Attributes:
        AP50: percent, mean over classes, by the data set's own metric.
        scores: class -> AP50.
        curves: class -> (recall, precision), both (N,) in [0, 1], as the metric's evaluation gives them.
    """

    AP50: float
    scores: Mapping[str, float]
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def sampled(self) -> dict[str, np.ndarray]:
        """Class -> the best precision at each of `RECALLS` or more: (101,), 0 where a recall is not reached."""
        return {name: at_recalls(*curve) for name, curve in self.curves.items()}

    def mean(self) -> np.ndarray:
        """Mean of `sampled` over classes: (101,)."""
        return np.mean(list(self.sampled().values()), axis=0) if self.curves else np.zeros(len(RECALLS))


def precision_recall(
    spec: DatasetSpec, records: Sequence[Record], detections: Sequence[ImageDetections]
) -> PrecisionRecall:
    """
    Args:
        records: of `spec`, from `catalog.load`.

    Raises:
        EvaluationError: detections that are not of this set.
    """
    if spec.format == "voc":
        assert spec.year is not None
        voc = voc_average_precision(records, detections, catalog.class_names(spec), spec.year)
        return PrecisionRecall(voc.AP50, {name: ap["AP50"] for name, ap in voc.per_class.items()}, voc.curves)
    assert spec.json_file is not None
    coco = coco_average_precision(spec.json_file, detections)
    scores = {name: 100 * float(precision.mean()) for name, (_, precision) in coco.curves.items()}
    return PrecisionRecall(coco.AP50, scores, coco.curves)


def at_recalls(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """(N,), (N,) -> (101,): the best precision at each of `RECALLS` or more, 0 where it is not reached."""
    best_after = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_after[np.searchsorted(recall, RECALLS, side="left")]
