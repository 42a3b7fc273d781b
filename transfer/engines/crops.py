"""Makes training samples of semantic segmentation: scales, crops (with padding) and mirrors an image and its map.

Each engine draws its own random numbers but makes the pixels here, so that equal numbers give equal samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image


@dataclass(frozen=True)
class Draw:
    """Holds one sample's random numbers: scale, the crop's place as a share in [0, 1) of its range, and mirroring."""

    scale: float
    top: float = 0.0
    left: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class ScaledCrops:
    """Makes samples with these settings.

    Attributes:
        scales: the smallest and the largest scale; it applies to height and width alike.
        size: (height, width) of the crop in pixels; None takes whole images.
        flip: whether an image is mirrored with probability one half.
        fill: (3,) values of pixels beyond the image's border, in the images' channel order.
        ignore_label: label of the map's pixels beyond the border.
    """

    scales: tuple[float, float]
    size: tuple[int, int] | None
    flip: bool
    fill: Sequence[int]
    ignore_label: int

    @classmethod
    def of(cls, cfg: CfgNode) -> ScaledCrops:
        """Reads the settings from a config; `fill` is the mean colour, which normalises to zero."""
        i, crop = cfg.INPUT, cfg.INPUT.CROP
        return cls(
            (float(i.RANDOM_SCALE[0]), float(i.RANDOM_SCALE[1])),
            (int(crop.SIZE[0]), int(crop.SIZE[1])) if crop.ENABLED else None,
            i.RANDOM_FLIP == "horizontal",
            [min(max(round(value), 0), 255) for value in cfg.MODEL.PIXEL_MEAN],
            cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )

    def draw(self, random: Callable[[], float]) -> Draw:
        """Draws a sample's numbers with four calls of `random`, each of which gives a number in [0, 1)."""
        low, high = self.scales
        scale, top, left, turn = (random() for _ in range(4))
        return Draw(low + (high - low) * scale, top, left, self.flip and turn < 0.5)

    def __call__(self, image: np.ndarray, labels: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Makes a sample.

        Args:
            image: (H, W, 3) uint8, resized bilinearly with antialiasing.
            labels: (H, W) uint8, resized by nearest neighbour.

        Returns:
            (h, w, 3) and (h, w) uint8, where (h, w) is `size`; padding lies at the right and the bottom.
        """
        size = tuple(max(1, round(side * draw.scale)) for side in labels.shape)
        if size != labels.shape:
            image = _resized(image, size, Image.Resampling.BILINEAR)
            labels = _resized(labels, size, Image.Resampling.NEAREST)
        if self.size is not None:
            image, labels = self._cropped(image, labels, draw)
        if draw.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return image, labels

    def _cropped(self, image: np.ndarray, labels: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        assert self.size is not None
        room = [max(0, have - want) for have, want in zip(labels.shape, self.size, strict=True)]
        top, left = int(draw.top * (room[0] + 1)), int(draw.left * (room[1] + 1))
        part = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        image, labels = image[part], labels[part]
        h, w = labels.shape
        if (h, w) == self.size:
            return image, labels
        canvas = np.empty((*self.size, 3), np.uint8)
        canvas[:] = self.fill
        canvas[:h, :w] = image
        outside = np.full(self.size, self.ignore_label, np.uint8)
        outside[:h, :w] = labels
        return canvas, outside


def _resized(pixels: np.ndarray, size: tuple[int, ...], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), how))
