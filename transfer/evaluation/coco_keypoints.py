"""Implements COCO's protocol for keypoints: AP by similarity of points, beside that of boxes and, if any, of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from transfer.data.dataset import Dataset
from transfer.data.keypoints import COCO_SIGMAS
from transfer.evaluation.coco import COCOEvaluator
from transfer.evaluation.coco_ap import coco_average_precision
from transfer.evaluation.detections import NOTHING_FOUND, undefined_reasons
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import EvaluationError, ImageDetections

_NAMES = ("AP", "AP50", "AP75", "APm", "APl")
_SIZES = {"keypoints/APm": "medium", "keypoints/APl": "large"}


class COCOKeypointEvaluator(COCOEvaluator):
    """Computes AP as pycocotools does: at most 20 detections per image, objects without a labelled point ignored."""

    def __init__(self, dataset: Dataset, masks: bool = False, sigmas: Sequence[float] = ()):
        """
        Args:
            dataset: the data set that the detections belong to; it must have keypoints.
            masks: whether masks are scored as well.
            sigmas: one per point; none takes COCO's, if there are as many points as COCO has.

        Raises:
            EvaluationError: the data set has no keypoints, or the number of sigmas differs from that of the points.
        """
        super().__init__(dataset, masks)
        if dataset.keypoints is None:
            raise EvaluationError(f"data set '{dataset.name}' has no keypoints to score: its categories list none")
        self.points = len(dataset.keypoints)
        self.sigmas = oks_sigmas(sigmas, self.points)

    def add(self, prediction: ImageDetections) -> None:
        points = prediction.keypoints
        if len(prediction.scores) and (points is None or points.shape[1] != self.points):
            what = "without keypoints" if points is None else f"with {points.shape[1]} keypoints"
            raise EvaluationError(
                f"keypoint AP is asked for, but image {prediction.image_id!r} has detections {what}; data set "
                f"'{self.dataset.name}' has {self.points}"
            )
        super().add(prediction)

    def scores(self) -> Scores:
        boxes = super().scores()
        found = coco_average_precision(self.dataset, self.detections, "keypoints", sigmas=self.sigmas)
        metrics = {f"keypoints/{name}": float(getattr(found, name)) for name in _NAMES}
        per_class = {c: {"keypoints/AP": found.per_class[c], **values} for c, values in boxes.per_class.items()}
        return replace(
            boxes,
            protocol="coco_keypoints",
            metrics={**metrics, **boxes.metrics},
            per_class=per_class,
            undefined={**self._undefined_points(metrics), **boxes.undefined},
        )

    def _undefined_points(self, metrics: dict[str, float]) -> dict[str, str]:
        truth = self.dataset.truth
        counted = (truth.keypoints[:, :, 2] > 0).any(axis=1) & ~truth.crowd
        if not np.any(counted):
            return undefined_reasons(metrics, {}, "no object has a labelled keypoint")
        if self._nothing_found():
            return undefined_reasons(metrics, {}, NOTHING_FOUND)
        why = {key: f"no object with a labelled keypoint is {words} (by its area)" for key, words in _SIZES.items()}
        return undefined_reasons(metrics, why, "no object has a labelled keypoint")


def oks_sigmas(given: Sequence[float], points: int) -> tuple[float, ...]:
    """Returns the sigmas to score with.

    Args:
        given: TEST.KEYPOINT_OKS_SIGMAS; empty takes COCO's.
        points: number of keypoints.

    Raises:
        EvaluationError: the number of given sigmas (or of COCO's, if none are given) differs from that of the points.
    """
    if not given and points == len(COCO_SIGMAS):
        return COCO_SIGMAS
    if len(given) != points:
        have = f"has {len(given)} numbers" if given else f"is empty, which stands for COCO's {len(COCO_SIGMAS)}"
        raise EvaluationError(
            f"TEST.KEYPOINT_OKS_SIGMAS {have}, but there are {points} keypoints: give one each, how far annotators "
            "differ on the point in shares of the object's size (COCO's lie between 0.025 and 0.107)"
        )
    return tuple(given)
