"""Applies the recipes of `pretrain.data.augment` to arrays: equal draws for equal seeds, pixels within a few levels.

Crops are torch's antialiased resize of bytes, which is Pillow's algorithm in vector code; the other steps are OpenCV's.
How much each differs from Pillow is measured in `tests/pretrain/data/test_fast_augment.py` and in docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.data.augment import SIGMA, by_name
from pretrain.data.draws import Draws
from pretrain.runtime.opencv import cv2

DIAGONAL = np.arange(3), np.arange(3)
LUMA = np.array([0.299, 0.587, 0.114])  # of R, G, B
RATIO = (3 / 4, 4 / 3)  # width over height of a crop
LOG_RATIO: tuple[float, float] = tuple(torch.log(torch.tensor(RATIO)).tolist())  # in float32, as torchvision's
TRUNCATE = -0.498  # OpenCV rounds; Pillow drops the fraction


@dataclass(frozen=True)
class Drawn:
    """Holds everything that was drawn at random for one view.

    Attributes:
        box: top, left, height and width of the crop in pixels.
        steps: steps on the resized crop in the order in which they are done, each as (a key of `STEPS`, its parameter).
        flip: whether left and right are exchanged in the end.
    """

    box: tuple[int, int, int, int]
    steps: tuple[tuple[str, float], ...]
    flip: bool


class FastRecipe:
    """Makes one random view, as `augment.recipe` does: H x W x 3 RGB uint8 -> 3 x crop_size x crop_size, uint8.

    Args:
        name: a key of `augment.RECIPES`.
        crop_size: side of the crop in pixels.
        scale: smallest and largest area of the crop, relative to the area of the image.

    Raises:
        ConfigError: there is no such recipe.
    """

    def __init__(self, name: str, crop_size: int = 224, scale: tuple[float, float] = (0.2, 1.0)):
        self.recipe, self.crop_size, self.scale = by_name(name), crop_size, scale
        colour = self.recipe.colour()
        self.jitter = {step: getattr(colour, step) for step in ("brightness", "contrast", "saturation", "hue")}

    @contextmanager
    def begin(self, seed: int) -> Iterator[Callable[[Any], Tensor]]:
        """Lends a function that makes a view of an image; its calls use the draws of this seed one after the other."""
        draws = Draws(seed)
        yield lambda image: self.view(np.asarray(image), draws)

    def view(self, pixels: np.ndarray, draws: Draws) -> Tensor:
        cv2.setNumThreads(0)  # a loader process has one core
        height, width = pixels.shape[:2]
        view = render(pixels, self.draw(height, width, draws), self.crop_size)
        return torch.from_numpy(view).permute(2, 0, 1)

    def draw(self, height: int, width: int, draws: Draws) -> Drawn:
        """Draws what torchvision's transforms would draw from torch's generator, in their order."""
        box = draw_box(height, width, self.scale, draws)
        steps: list[tuple[str, float]] = []
        for step, probability in self.recipe.steps:
            if probability == 1 or draws.happens(probability):  # what always happens is not drawn
                steps += self._draw(step, draws)
        return Drawn(box, tuple(steps), flip=draws.happens(0.5))

    def _draw(self, step: str, draws: Draws) -> list[tuple[str, float]]:
        if step == "gray":
            return [("gray", 1.0)]
        if step == "blur":
            return [("blur", draws.uniform(*SIGMA))]
        order = draws.permutation(len(self.jitter))
        values = [draws.uniform(*between) for between in self.jitter.values()]
        names = list(self.jitter)
        return [(names[i], values[i]) for i in order]


def draw_box(height: int, width: int, scale: tuple[float, float], draws: Draws) -> tuple[int, int, int, int]:
    """Draws top, left, height and width of a crop, as torchvision's `RandomResizedCrop` does, in a quarter of its time.

    The crop has a share of the area within `scale`, and sides between 3:4 and 4:3. After ten draws that do not fit into
    the image, it is the largest central crop with such sides.
    """
    value = torch.empty(1)
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        ratio = value.fill_(draws.uniform(*LOG_RATIO)).exp_().item()  # torch's exponential: the last bit counts
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return draws.below(height - h + 1), draws.below(width - w + 1), h, w
    narrow, wide = RATIO
    w, h = min(width, round(height * wide)), min(height, round(width / narrow))
    return (height - h) // 2, (width - w) // 2, h, w


def render(image: np.ndarray, drawn: Drawn, crop_size: int) -> np.ndarray:
    """Makes the view that was drawn: H x W x 3 RGB uint8 -> crop_size x crop_size x 3."""
    view = crop(image, drawn.box, crop_size)
    for name, value in drawn.steps:
        view = STEPS[name](view, value)
    return cv2.flip(view, 1) if drawn.flip else view


def crop(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Cuts out the box (top, left, height, width) and resizes it to size x size, bilinear and antialiased."""
    top, left, height, width = box
    x = torch.from_numpy(image[None, top : top + height, left : left + width].copy()).permute(0, 3, 1, 2)
    resized = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1)[0].numpy())  # in memory, x and this are H x W x 3 already


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return _affine(image, factor, 0, 0)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance of every value from the mean of the grey image by `factor`."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _affine(image, factor, 0, (1 - factor) * mean)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance of every value from its pixel's grey by `factor`."""
    return _affine(image, factor, (1 - factor) * LUMA, 0)


def _affine(image: np.ndarray, factor: float, mixed: np.ndarray | float, offset: float) -> np.ndarray:
    """Returns `factor` times each value plus its pixel's values weighted by `mixed` (3) and `offset`, cut to 0..255."""
    matrix = np.empty((3, 4))
    matrix[:, :3] = mixed
    matrix[DIAGONAL] += factor
    matrix[:, 3] = offset + TRUNCATE
    return cv2.transform(image, matrix)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turns the hue of HSV by `turn` of the circle, less the one step of 256 that OpenCV's conversion and back adds."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8((int(turn * 255) - 1) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def gray(image: np.ndarray, _: float = 1.0) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Applies a Gaussian of this standard deviation (pixels); the border is repeated."""
    nominal, actual = _spread()
    corrected = float(np.interp(sigma, actual, nominal))
    return cv2.GaussianBlur(image, (_taps(corrected),) * 2, corrected, borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=1)
def _spread() -> tuple[np.ndarray, np.ndarray]:
    """Returns nominal and actual standard deviations of OpenCV's kernels, which are too narrow below half a pixel."""
    nominal = np.linspace(0.05, 2.5, 246)
    actual = []
    for sigma in nominal:
        weights = cv2.getGaussianKernel(_taps(sigma), sigma)[:, 0]
        offsets = np.arange(len(weights)) - len(weights) // 2
        actual.append(np.sqrt((weights * offsets**2).sum()))
    return nominal, np.array(actual)


def _taps(sigma: float) -> int:
    """Returns the width of a kernel that reaches 3 sigma to each side."""
    return 2 * int(np.ceil(3 * sigma)) + 1


STEPS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "gray": gray,
    "blur": blur,
}
