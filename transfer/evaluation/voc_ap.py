"""Computes Pascal VOC's average precision at ten overlaps, as Detectron2's evaluator, in one pass per class.

All rules are Detectron2's. Widths are xmax - xmin + 1 in 1-based pixels. A detection is compared only with the object
of its image and class that it overlaps most; it is correct if that overlap exceeds the threshold and no surer
detection took the object. Difficult objects neither count nor punish. Scores are rounded to three decimals and
coordinates to a tenth before anything else, because the numbers in the papers were made from such text files.

N = detections of a class, G = its objects, T = 10 thresholds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.data.spec import Record
from transfer.evaluation.predictions import EvaluationError, ImageDetections, check

__all__ = ["THRESHOLDS", "ImageDetections", "VOCResult", "voc_average_precision"]

log = logging.getLogger(__name__)

THRESHOLDS = np.array([percent / 100 for percent in range(50, 100, 5)])
_AT_50, _AT_75 = 0, 5


@dataclass(frozen=True)
class VOCResult:
    """Holds AP in percent, as the papers print it.

    Attributes:
        AP, AP50, AP75: means over classes; AP is also over the overlaps .50, .55, ..., .95.
        per_class: name -> {"AP", "AP50", "AP75"}.
        curves: name -> (recall, precision) at overlap .5, both (N,) in [0, 1], from the surest detection on; recall is
            0 throughout for a class without objects.
        n_objects: name -> number of objects that count (those that are not difficult).
    """

    AP: float
    AP50: float
    AP75: float
    per_class: dict[str, dict[str, float]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    n_objects: dict[str, int]


def voc_average_precision(
    records: Sequence[Record],
    detections: Sequence[ImageDetections],
    class_names: Sequence[str],
    year: int,
    rounded: bool = True,
) -> VOCResult:
    """Computes VOC AP of `detections` on the ground truth in `records`.

    Args:
        records: the whole dataset from `catalog.load`; an annotation without `difficult` is not difficult.
        detections: at most one entry per image; an image without one has no detections. Where scores tie, the order
            of this sequence counts.
        class_names: names by contiguous category id.
        year: 2007 for the 11-point metric, 2012 for the area under the precision-recall curve.
        rounded: round detections as Detectron2 does, if all annotated coordinates are whole pixels, as in VOC. If some
            have decimals, which Detectron2's evaluator cannot read, nothing is rounded, since even perfect detections
            would then miss small objects. False evaluates the numbers as they are.

    A class without objects that count has AP 0 in both metrics. (Detectron2 gives 0 in the 11-point metric; in the
    other it gives NaN if there are detections of the class, which makes the mean NaN.)

    Raises:
        EvaluationError: an image is unknown or repeated, a class number is out of range, or the year is neither.
    """
    if year not in (2007, 2012):
        raise EvaluationError(f"year is {year!r}; give 2007 (11-point AP) or 2012 (area under the curve)")
    position = {record["image_id"]: i for i, record in enumerate(records)}
    if len(position) < len(records):
        raise EvaluationError("an image stands twice in the dataset; remove one from its split")
    check(detections, position, len(class_names))
    truth = _Truth.of(records)
    found = _Found.of(detections, position, rounded and truth.whole)

    average_precision = _eleven_points if year == 2007 else _area
    table = np.zeros((len(class_names), len(THRESHOLDS)))
    curves, counts, unseen = {}, {}, []
    for c, name in enumerate(class_names):
        objects, mine = truth.classes == c, found.classes == c
        counts[name] = n_positive = int((~truth.difficult[objects]).sum())
        recall, precision = _curves(truth.only(objects), found.only(mine), n_positive)
        curves[name] = recall[_AT_50], precision[_AT_50]
        table[c] = [average_precision(r, p) * 100 for r, p in zip(recall, precision, strict=True)]
        if n_positive == 0:
            unseen.append(name)
    if unseen:
        log.warning("no ground truth for %s: AP 0, which lowers the mean", ", ".join(unseen))

    over_classes = [float(np.mean(column)) for column in table.T]
    per_class = {
        name: {"AP": float(np.mean(row)), "AP50": float(row[_AT_50]), "AP75": float(row[_AT_75])}
        for name, row in zip(class_names, table, strict=True)
    }
    ap = float(np.mean(over_classes))
    return VOCResult(ap, over_classes[_AT_50], over_classes[_AT_75], per_class, curves, counts)


@dataclass(frozen=True)
class _Truth:
    """Holds all objects, image by image. `boxes` (G, 4) are XYXY in 1-based pixels, both ends included."""

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray

    @staticmethod
    def of(records: Sequence[Record]) -> _Truth:
        rows = [(i, a) for i, record in enumerate(records) for a in record["annotations"]]
        boxes = np.array([a["bbox"] for _, a in rows], np.float64).reshape(-1, 4) + (1, 1, 0, 0)
        return _Truth(
            np.array([i for i, _ in rows], np.intp),
            np.array([a["category_id"] for _, a in rows], np.intp),
            boxes,
            np.array([a.get("difficult", 0) for _, a in rows], bool),
        )

    @property
    def whole(self) -> bool:
        """Returns whether all coordinates are whole pixels."""
        return bool((self.boxes == np.rint(self.boxes)).all())

    def only(self, which: np.ndarray) -> _Truth:
        return _Truth(self.images[which], self.classes[which], self.boxes[which], self.difficult[which])


@dataclass(frozen=True)
class _Found:
    """Holds all detections in the order given. `boxes` (N, 4) are XYXY in 1-based pixels, both ends included."""

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @staticmethod
    def of(detections: Sequence[ImageDetections], position: dict[str | int, int], rounded: bool) -> _Found:
        if not detections:
            return _Found(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros((0, 4)), np.zeros(0))
        # The 1 is added in the detector's own precision, as Detectron2 does.
        boxes = np.concatenate([d.boxes + np.array([1, 1, 0, 0], d.boxes.dtype) for d in detections]).astype(np.float64)
        scores = np.concatenate([d.scores for d in detections]).astype(np.float64)
        return _Found(
            np.repeat([position[d.image_id] for d in detections], [len(d.scores) for d in detections]),
            np.concatenate([d.classes for d in detections]),
            _round(boxes, 1) if rounded else boxes,
            _round(scores, 3) if rounded else scores,
        )

    def only(self, which: np.ndarray) -> _Found:
        return _Found(self.images[which], self.classes[which], self.boxes[which], self.scores[which])


def _round(x: np.ndarray, digits: int) -> np.ndarray:
    """Returns float(f"{v:.{digits}f}") of every v: the nearest decimal, with exact ties to even.

    `np.round` multiplies first, so the product of a number just beside a tie may land on the tie; only those few
    numbers go through text.
    """
    scaled = x * 10**digits
    out = np.rint(scaled) / 10**digits
    for i in zip(*np.nonzero(np.abs(scaled - np.floor(scaled)) == 0.5), strict=True):
        out[i] = float(f"{x[i]:.{digits}f}")
    return out


def _curves(truth: _Truth, found: _Found, n_positive: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision (T, N) of one class after each detection, surest first."""
    order = np.argsort(-found.scores)  # not stable: Detectron2's order of ties
    overlap, best = _best_overlap(truth, found)
    overlap, best = overlap[order], best[order]

    hit = overlap > THRESHOLDS[:, None]  # (T, N)
    counted = hit & ~truth.difficult[best] if len(truth.boxes) else hit
    rows, columns = np.nonzero(counted)  # by threshold, then by score: the first at an object takes it
    _, first = np.unique(rows * len(truth.boxes) + best[columns], return_index=True)
    correct = np.zeros_like(hit)
    correct[rows[first], columns[first]] = True
    wrong = ~hit | (counted & ~correct)

    tp, fp = np.cumsum(correct, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
    return tp / max(n_positive, 1), tp / np.maximum(tp + fp, np.finfo(np.float64).eps)


def _best_overlap(truth: _Truth, found: _Found) -> tuple[np.ndarray, np.ndarray]:
    """Returns each detection's largest IoU with an object of its class and image, and that object's row in `truth`.

    Both are (N,). IoU is -inf if there is no object; of several equal ones the first object counts.
    """
    overlap, best = np.full(len(found.images), -np.inf), np.zeros(len(found.images), np.intp)
    first = np.searchsorted(truth.images, found.images, side="left")
    count = np.searchsorted(truth.images, found.images, side="right") - first  # objects to compare with
    rows = np.flatnonzero(count)
    if not len(rows):
        return overlap, best
    first, count = first[rows], count[rows]
    start = np.cumsum(count) - count  # where each detection's pairs begin
    offset = np.arange(count.sum()) - np.repeat(start, count)
    iou = _iou(found.boxes[np.repeat(rows, count)], truth.boxes[np.repeat(first, count) + offset])
    overlap[rows] = np.maximum.reduceat(iou, start)
    is_best = iou == np.repeat(overlap[rows], count)
    best[rows] = first + np.minimum.reduceat(np.where(is_best, offset, count.max()), start)
    return overlap, best


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of paired boxes, (P, 4), (P, 4) -> (P,), with pixels included at both ends."""
    width = np.maximum(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + 1.0, 0.0)
    height = np.maximum(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + 1.0, 0.0)
    intersection = width * height
    area_a = (a[:, 2] - a[:, 0] + 1.0) * (a[:, 3] - a[:, 1] + 1.0)
    area_b = (b[:, 2] - b[:, 0] + 1.0) * (b[:, 3] - b[:, 1] + 1.0)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Returns the mean over recalls 0, .1, ..., 1 of the best precision at that recall or more (0 if not reached)."""
    if not len(recall):
        return 0.0
    best_after = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    ap = 0.0
    for at_least in np.arange(0.0, 1.1, 0.1):
        ap += best_after[np.searchsorted(recall, at_least, side="left")] / 11.0
    return float(ap)


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Returns the area under the precision envelope over recall."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.maximum.accumulate(np.concatenate((precision, [0.0]))[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps]))
