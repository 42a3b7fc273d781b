"""Holds what a network sees in training as plain arrays, the same on both engines, for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TrainingInput:
    """Holds one augmented training image with its objects.

    Attributes:
        file_name: file of the image that it was made from.
        image: (h, w, 3) uint8, RGB whatever order the network takes.
        boxes: (M, 4) float, XYXY pixels of `image`.
        labels: (M,) int, contiguous category ids.
        masks: (M, h, w) bool, or None without MODEL.MASK_ON.
        keypoints: (M, k, 3) float, x and y in pixels of `image` and visibility, or None without MODEL.KEYPOINT_ON.
        classes: (h, w) class ids, or None if objects are annotated; values that are no class are ignored.
    """

    file_name: str
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    keypoints: np.ndarray | None = None
    classes: np.ndarray | None = None

    @classmethod
    def of_map(cls, file_name: str, image: np.ndarray, classes: np.ndarray) -> TrainingInput:
        """Makes an input with a map of classes and no objects."""
        return cls(file_name, image, np.zeros((0, 4)), np.zeros(0, int), None, classes=classes)
