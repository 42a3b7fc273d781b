"""Makes keypoints of the generated scenes: a shape's middle, and its outermost points left, right, top and bottom.

They are points of the picture, not of the shape's own frame, so that a mirrored picture swaps left and right. A point
that another object covers is labelled as hidden (visibility 1); one outside the picture is not labelled (0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = ("middle", "left", "right", "top", "bottom")
SKELETON = ((1, 2), (1, 3), (1, 4), (1, 5))  # counted from 1, as COCO's
_INWARD = 0.9  # of the way from the middle to the outline, so that a point lies on its shape

Point = tuple[float, float, int]
"""x, y in continuous pixels and COCO's visibility."""


def points(outline: np.ndarray, middle: tuple[float, float], visible: np.ndarray) -> tuple[Point, ...]:
    """Returns the points of one shape, in the order of NAMES.

    Args:
        outline: (n, 2) x and y in pixels of the picture.
        visible: (H, W) bool, the shape's pixels that nothing covers.
    """
    x, y = outline.T
    outermost = outline[[x.argmin(), x.argmax(), y.argmin(), y.argmax()]]
    places = np.vstack([middle, middle + _INWARD * (outermost - middle)])
    height, width = visible.shape
    found: list[Point] = []
    for px, py in places.tolist():
        if not (0 <= px < width and 0 <= py < height):
            found.append((0.0, 0.0, 0))
        else:
            found.append((px, py, 2 if visible[int(py), int(px)] else 1))
    return tuple(found)


def keypoints_json(shapes: list[tuple[Point, ...]], instances: dict[str, Any]) -> dict[str, Any]:
    """Makes COCO's keypoints json with one category from all objects' points and the same objects' instances json."""
    annotations = []
    for found, annotation in zip(shapes, instances["annotations"], strict=True):
        flat = [
            v for x, y, seen in found for v in ((round(x - 0.5, 2), round(y - 0.5, 2), seen) if seen else (0, 0, 0))
        ]
        labelled = sum(seen > 0 for *_, seen in found)
        annotations.append({**annotation, "category_id": 1, "keypoints": flat, "num_keypoints": labelled})
    category = {"id": 1, "name": "shape", "keypoints": list(NAMES), "skeleton": [list(line) for line in SKELETON]}
    return {**instances, "annotations": annotations, "categories": [category]}


SPEC = """\
# The same images with keypoints: one class, five points per object, of which left and right swap in a mirrored image.
name: generated_keypoints
format: coco
root: .
splits:
  train: {images: scenes/JPEGImages, annotations: coco/keypoints_train.json}
  val: {images: scenes/JPEGImages, annotations: coco/keypoints_val.json}
"""
