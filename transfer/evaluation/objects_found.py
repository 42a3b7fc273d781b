"""Finds which objects of an image its surest detections find; reports count these and draw them as right or wrong.

As many of the surest detections are taken as the image has objects. A detection finds an object if it is of the same
class, overlaps it with an IoU of at least 0.5, and no surer detection took the object; each takes the free object that
it overlaps most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.data.spec import Record
from transfer.evaluation.predictions import ImageDetections

IOU = 0.5


def objects(record: Record) -> list[dict[str, Any]]:
    """Returns the annotated objects that are drawn and counted: all but crowd regions, difficult ones included."""
    return [a for a in record["annotations"] if not a.get("iscrowd")]


def surest(detections: ImageDetections, count: int) -> np.ndarray:
    """Returns the positions (<= count,) of the `count` surest detections, surest first; ties in the order given."""
    return np.argsort(-detections.scores, kind="stable")[:count]


def finders(record: Record, detections: ImageDetections | None) -> list[int]:
    """Returns the positions of the detections that find an object of an image, surest first."""
    truth = objects(record)
    if detections is None or not truth or not len(detections.scores):
        return []
    chosen = surest(detections, len(truth))
    boxes = np.array([a["bbox"] for a in truth], np.float64)
    classes = np.array([a["category_id"] for a in truth])
    overlap = _iou(detections.boxes[chosen].astype(np.float64), boxes)  # (detections, objects)
    overlap[detections.classes[chosen][:, None] != classes] = 0.0
    free, found = np.ones(len(truth), bool), []
    for position, row in zip(chosen, overlap, strict=True):
        best = int(np.where(free, row, 0.0).argmax())
        if free[best] and row[best] >= IOU:
            free[best] = False
            found.append(int(position))
    return found


def all_found(records: Sequence[Record], detections: Mapping[str | int, ImageDetections]) -> np.ndarray:
    """Returns how many objects are found in each image, in the data set's order: (images,) float."""
    return np.array([len(finders(r, detections.get(r["image_id"]))) for r in records], np.float64)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of XYXY boxes (N, 4), (M, 4) as (N, M)."""
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    both = np.clip(corner, 0, None).prod(axis=2)
    areas = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)
