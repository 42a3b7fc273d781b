"""Which objects of an image its surest detections find: what reports count, and draw as right or wrong.

The rule: take as many of the surest detections as the image has objects. One of them finds an object if it is of its
class, overlaps it with an IoU of at least 0.5 and no surer one took it; each takes the free object that it overlaps
most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.data.spec import Record
from transfer.evaluation.predictions import ImageDetections

IOU = 0.5


def objects(record: Record) -> list[dict[str, Any]]:
    """The annotated objects that are drawn and counted: all but crowd regions, difficult ones included."""
    return [a for a in record["annotations"] if not a.get("iscrowd")]


def surest(detections: ImageDetections, count: int) -> np.ndarray:
    """Positions of the `count` surest detections, from the surest on; equal scores in the order given. (<= count,)"""
    return np.argsort(-detections.scores, kind="stable")[:count]


def finders(record: Record, detections: ImageDetections | None) -> list[int]:
    """Positions of the detections that find an object of an image, from the surest on."""
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
    """How many objects of every image are found, in the data set's order: (images,) float."""
    return np.array([len(finders(r, detections.get(r["image_id"]))) for r in records], np.float64)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """XYXY boxes (N, 4), (M, 4) -> (N, M)."""
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    both = np.clip(corner, 0, None).prod(axis=2)
    areas = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)
