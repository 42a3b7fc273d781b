"""What the surest detections of an image find: a naive matching gives the same."""

from __future__ import annotations

import numpy as np

from transfer.evaluation.objects_found import finders
from transfer.evaluation.predictions import ImageDetections


def iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (area[0] + area[1] - width * height)


def naive(record, detections) -> int:
    truth = [a for a in record["annotations"] if not a.get("iscrowd")]
    free = list(truth)
    order = sorted(range(len(detections.scores)), key=lambda i: (-detections.scores[i], i))
    for i in order[: len(truth)]:
        mine = [a for a in free if a["category_id"] == detections.classes[i]]
        best = max(mine, key=lambda a: iou(detections.boxes[i], a["bbox"]), default=None)
        if best is not None and iou(detections.boxes[i], best["bbox"]) >= 0.5:
            free.remove(best)
    return len(truth) - len(free)


def objects_found(record, detections) -> int:
    return len(finders(record, detections))


def scene(rng, image_id):
    corners = rng.uniform(0, 60, (rng.integers(0, 9), 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 40, corners.shape)])
    annotations = [
        {"bbox": list(box), "category_id": int(rng.integers(3)), "iscrowd": int(rng.random() < 0.1)} for box in boxes
    ]
    again = rng.integers(0, len(boxes), 2 * len(boxes)) if len(boxes) else np.zeros(0, int)
    found = boxes[again] + rng.normal(0, 4, (len(again), 4))
    classes = np.array([annotations[i]["category_id"] if rng.random() < 0.8 else 0 for i in again], np.int64)
    scores = rng.integers(1, 6, len(again)) / 5  # ties, too
    return {"image_id": image_id, "annotations": annotations}, ImageDetections(image_id, found, scores, classes)


def test_objects_found_are_those_of_a_naive_matching():
    rng = np.random.default_rng(0)
    pairs = [scene(rng, i) for i in range(300)]
    counts = [objects_found(record, found) for record, found in pairs]
    assert counts == [naive(record, found) for record, found in pairs] and max(counts) > 4


def test_only_as_many_detections_as_objects_count_and_one_finds_one():
    record = {"image_id": 1, "annotations": [{"bbox": [0, 0, 10, 10], "category_id": 0}] * 2}
    boxes = np.array([[50, 50, 60, 60], [0, 0, 10, 10], [0, 0, 10, 10.0]])
    classes = np.zeros(3, np.int64)
    assert objects_found(record, ImageDetections(1, boxes, np.array([0.9, 0.8, 0.7]), classes)) == 1
    assert objects_found(record, ImageDetections(1, boxes, np.array([0.1, 0.8, 0.7]), classes)) == 2
    assert objects_found(record, ImageDetections(1, boxes, np.array([0.1, 0.8, 0.7]), classes + 1)) == 0
    assert objects_found(record, None) == 0
    assert finders(record, ImageDetections(1, boxes, np.array([0.1, 0.7, 0.8]), classes)) == [2, 1]
