"""Measures how far an exported file's outputs are from those of the network it was made of, on the same image.

Shape shorthand: (H, W) the image, n detections of the network, m of the file, k keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 5e-4  # boxes and keypoints may be this share of the image's longer side apart
SCORE = 1e-3  # and scores this much
SHARE = 0.01  # of the detections, or of the keypoints, may be apart further: where two are almost equal, either may win
PIXELS = 1e-3  # the share of a mask's, or of a map's, pixels that may differ


@dataclass(frozen=True)
class Difference:
    """Holds a file's differences from its network on one image of `size` (H, W); None where there is no such output.

    Attributes:
        found: numbers of detections of the network and of the file.
        lost: number of detections of both without a counterpart of the same label within the tolerances.
        boxes: largest difference between the boxes of counterparts, pixels.
        scores: largest difference between their scores.
        masks: largest share of a mask's pixels that differ.
        points: share of keypoints that are further apart than boxes may be.
        classes: share of the pixels of a map of classes that differ.
    """

    size: tuple[int, int]
    found: tuple[int, int] | None = None
    lost: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    masks: float | None = None
    points: float | None = None
    classes: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.found is not None:
            parts += [f"detections {self.found[0]} and {self.found[1]}", f"boxes {self.boxes:.1e} pixels",
                      f"scores {self.scores:.1e}"]  # fmt: skip
            parts += [f"{self.lost} detections without a counterpart"] if self.lost else []
        for name, value in (("masks", self.masks), ("classes", self.classes)):
            parts += [] if value is None else [f"{name} {value:.2%} of the pixels"]
        parts += [] if self.points is None else [f"keypoints {self.points:.2%} apart"]
        return f"{self.size[1]}x{self.size[0]}: {', '.join(parts)}"

    @property
    def too_large(self) -> bool:
        """Returns whether the file computes something else than the network."""
        return (
            self.lost > SHARE * sum(self.found or (0, 0))
            or max(self.masks or 0.0, self.classes or 0.0) > PIXELS
            or (self.points or 0.0) > SHARE
        )


def difference(
    expected: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], size: tuple[int, int]
) -> Difference:
    """Compares two sets of outputs for an image of this size."""
    if "classes" in expected:
        return Difference(size, classes=_apart(expected["classes"], given["classes"]))
    within = SIDE * max(size)
    pairs = counterparts(expected, given, within)
    found = (len(expected["scores"]), len(given["scores"]))

    def largest(name: str) -> float:
        return max((float(np.abs(expected[name][i] - given[name][j]).max()) for i, j in pairs), default=0.0)

    masks = points = None
    if "masks" in expected:
        masks = max((_apart(expected["masks"][i], given["masks"][j]) for i, j in pairs), default=0.0)
    if "keypoints" in expected:
        far = [np.abs(expected["keypoints"][i] - given["keypoints"][j])[:, :2].max(axis=1) > within for i, j in pairs]
        points = float(np.mean(far)) if far else 0.0
    return Difference(
        size, found, sum(found) - 2 * len(pairs), largest("boxes"), largest("scores"), masks, points, None
    )


def counterparts(
    expected: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], within: float
) -> list[tuple[int, int]]:
    """Pairs detections of equal label, boxes `within` pixels and scores within `SCORE`, each in one pair at most."""
    pairs, free = [], set(range(len(given["scores"])))
    for i, (box, score, label) in enumerate(
        zip(expected["boxes"], expected["scores"], expected["labels"], strict=True)
    ):
        near = {
            j: float(np.abs(given["boxes"][j] - box).max())
            for j in free
            if given["labels"][j] == label and abs(given["scores"][j] - score) <= SCORE
        }
        closest = min(near, key=near.__getitem__, default=None)
        if closest is not None and near[closest] <= within:
            pairs.append((i, closest))
            free.remove(closest)
    return pairs


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the share of places at which two arrays differ; 1 if their shapes differ."""
    return float(np.mean(a != b)) if a.shape == b.shape else 1.0


def made_up(height: int, width: int) -> np.ndarray:
    """Makes an image of soft spots and hard edges, (height, width, 3) uint8."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(8):
        top, left = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
        tall, wide = rng.integers(8, height // 2), rng.integers(8, width // 2)
        image[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
    return image
