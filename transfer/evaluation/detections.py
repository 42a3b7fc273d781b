"""Provides what evaluators of detections share: they keep detections in the data set's order and save them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from transfer.data.dataset import Dataset
from transfer.evaluation import trial_summary
from transfer.evaluation.evaluator import Evaluator, Scores
from transfer.evaluation.predictions import EvaluationError, ImageDetections, predictions_file, save_coco_json


class DetectionEvaluator(Evaluator):
    """Keeps the detections of every image."""

    def __init__(self, dataset: Dataset, masks: bool = False):
        """
        Args:
            dataset: the data set that the detections belong to.
            masks: whether masks are scored as well as boxes; every detection must then have one.
        """
        super().__init__()
        self.dataset, self.masks = dataset, masks
        self.detections: list[ImageDetections] = []
        self._sizes = [(r["height"], r["width"]) for r in dataset.records]

    def add(self, prediction: ImageDetections) -> None:
        self._once(prediction.image_id, self.dataset.order)
        classes = prediction.classes
        if classes.size and not 0 <= classes.min() <= classes.max() < len(self.dataset.classes):
            bad = int(classes.max()) if classes.max() >= len(self.dataset.classes) else int(classes.min())
            raise EvaluationError(
                f"image {prediction.image_id!r}: class {bad} is out of range; the dataset has "
                f"{len(self.dataset.classes)}, numbered from 0"
            )
        if self.masks and prediction.masks is None and len(classes):
            raise EvaluationError(
                f"mask AP is asked for, but image {prediction.image_id!r} has detections without masks"
            )
        for rle in prediction.masks or ():
            if tuple(rle["size"]) != (size := self._sizes[self.dataset.order[prediction.image_id]]):
                raise EvaluationError(
                    f"image {prediction.image_id!r}: a mask of {rle['size'][1]}x{rle['size'][0]}, but the image is "
                    f"{size[1]}x{size[0]} (width x height)"
                )
        self.detections.append(prediction)

    def state(self) -> list[ImageDetections]:
        return self.detections

    def merge(self, states: Iterable[list[ImageDetections]]) -> None:
        self.detections, self._seen = [], set()
        for prediction in (d for state in states for d in state):
            self.add(prediction)
        self.detections.sort(key=lambda d: self.dataset.order[d.image_id])

    def save(self, folder: Path) -> None:
        save_coco_json(folder / predictions_file(self.dataset.name), self.detections, self.dataset.category_ids)

    def summarise(self, folder: Path, scores: Scores) -> None:
        trial_summary.save(folder, self.dataset, trial_summary.summary(self.dataset, self.detections, scores))

    @abstractmethod
    def scores(self) -> Scores: ...

    def _nothing_found(self) -> bool:
        return not any(len(d.scores) for d in self.detections)


class UnscoredEvaluator(DetectionEvaluator):
    """Keeps the detections on a set without annotations, for whoever has these, and scores nothing."""

    def scores(self) -> Scores:
        why = f"data set '{self.dataset.name}': nothing is annotated that counts, so detections are kept and not scored"
        return Scores(self.dataset.protocols[0], {}, notes=(why,))


NOTHING_FOUND = "no detection has a score above the threshold (MODEL.ROI_HEADS.SCORE_THRESH_TEST)"


def undefined_reasons(metrics: dict[str, float], reason: dict[str, str], otherwise: str) -> dict[str, str]:
    """Returns metric key -> why it is undefined, for metrics that are NaN: `reason` by key, else `otherwise`."""
    return {key: reason.get(key, otherwise) for key, value in metrics.items() if np.isnan(value)}
