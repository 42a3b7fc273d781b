"""Computes Cityscapes' average precision of masks, whose rules are not COCO's.

An object is found by a prediction of its class whose IoU is *above* the threshold. Objects below 100 pixels do not
count. A prediction that finds nothing is forgiven if a share of it above the threshold lies on void, on groups of its
class, or on such small objects. Precision over recall is not interpolated, and there is no cap on the number of
predictions. AP is the mean over classes with objects and over IoU .50, .55, ..., .95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

IOUS = np.arange(0.5, 1.0, 0.05)
SMALLEST = 100  # pixels of an object that counts


@dataclass
class Found:
    """Holds a predicted mask: its class's contiguous id, score, pixels, pixels on void, and the objects it lies on.

    `shared` maps an object's position in the image to the pixels shared with it, for objects of the mask's class.
    """

    category: int
    score: float
    pixels: int
    void: int
    shared: dict[int, int] = field(default_factory=dict)


@dataclass
class Truth:
    """Holds an annotated mask: its class's contiguous id, its pixels, and whether it is a group."""

    category: int
    pixels: int
    group: bool

    @property
    def counts(self) -> bool:
        return not self.group and self.pixels >= SMALLEST


def average_precision(images: Sequence[tuple[Sequence[Truth], Sequence[Found]]], classes: int) -> np.ndarray:
    """Computes AP per class and threshold.

    Returns:
        (classes, len(IOUS)) in [0, 1], NaN for a class without an object that counts.
    """
    result = np.full((classes, len(IOUS)), np.nan)
    for category in range(classes):
        own = [
            (truths, [found for found in predictions if found.category == category])
            for truths, predictions in images
            if any(t.category == category and t.counts for t in truths)
            or any(p.category == category for p in predictions)
        ]
        if not any(t.category == category and t.counts for truths, _ in own for t in truths):
            continue
        for i, threshold in enumerate(IOUS):
            matched = [_match(truths, predictions, category, threshold) for truths, predictions in own]
            right = np.concatenate([np.array(r, bool) for r, _, _ in matched])
            scores = np.concatenate([np.array(s, float) for _, s, _ in matched])
            result[category, i] = _area(right, scores, missed=sum(m for _, _, m in matched))
    return result


def _match(
    truths: Sequence[Truth], predictions: Sequence[Found], category: int, threshold: float
) -> tuple[list[bool], list[float], int]:
    """Returns for one image whether each counted prediction is right, its score, and the number of missed objects."""
    right: list[bool] = []
    scores: list[float] = []
    missed = 0
    used: set[int] = set()
    for t, truth in enumerate(truths):
        if truth.category != category or not truth.counts:
            continue
        finders = [
            p for p, found in enumerate(predictions) if p not in used and _iou(found, truth, t) > threshold
        ]  # fmt: skip
        used.update(finders)
        if not finders:
            missed += 1
            continue
        ranked = sorted((predictions[p].score for p in finders), reverse=True)
        right += [True] + [False] * (len(ranked) - 1)  # the surest finds it, the others are duplicates
        scores += ranked
    for found in predictions:
        if any(_iou(found, truths[t], t) > threshold for t in found.shared):
            continue
        forgiven = found.void
        for t, pixels in found.shared.items():
            forgiven += pixels * truths[t].group + pixels * (truths[t].pixels < SMALLEST)
        if forgiven / found.pixels <= threshold:
            right.append(False)
            scores.append(found.score)
    return right, scores, missed


def _iou(found: Found, truth: Truth, t: int) -> float:
    shared = found.shared.get(t, 0)
    return shared / (found.pixels + truth.pixels - shared)


def _area(right: np.ndarray, scores: np.ndarray, missed: int) -> float:
    """Returns the area under precision over recall, by the trapezoids that Cityscapes takes."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores)
    below = np.concatenate([[0], np.cumsum(right[order])])  # right ones among the n least sure
    _, first = np.unique(scores[order], return_index=True)  # one point per distinct score
    found = below[-1] - below[first]
    precision = np.append(found / (len(scores) - first), 1.0)
    recall = np.append(found / (below[-1] + missed), 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ ((padded[:-2] - padded[2:]) / 2))
