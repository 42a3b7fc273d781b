"""The two augmentation recipes, and one or two views by them. All randomness comes from torch's CPU generator.

v1 is that of arXiv:1911.05722, v2 ("aug+") that of arXiv:2003.04297; the order of the steps is the reference's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T

from pretrain.runtime.config import ConfigError

MEAN = (0.485, 0.456, 0.406)  # RGB, for values in [0, 1]
STD = (0.229, 0.224, 0.225)


class GaussianBlur:
    """Blurs a PIL image with a sigma (pixels) drawn from U(low, high), as SimCLR does."""

    def __init__(self, low: float = 0.1, high: float = 2.0):
        self.low, self.high = low, high

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = torch.empty(()).uniform_(self.low, self.high).item()
        return image.filter(ImageFilter.GaussianBlur(radius=sigma))

    def __repr__(self) -> str:
        return f"GaussianBlur(low={self.low}, high={self.high})"


def recipe(name: str, crop_size: int = 224, scale: tuple[float, float] = (0.2, 1.0)) -> T.Compose:
    """One random view: RGB PIL image -> 3 x crop_size x crop_size, normalised with `MEAN` and `STD`.

    Args:
        name: "v1" or "v2".
        crop_size: pixels.
        scale: smallest and largest area of the crop over the area of the image.

    Raises:
        ConfigError: another name.
    """
    crop = T.RandomResizedCrop(crop_size, scale=tuple(scale))
    gray = T.RandomGrayscale(p=0.2)
    if name == "v1":
        colour = [gray, T.ColorJitter(0.4, 0.4, 0.4, 0.4)]
    elif name == "v2":
        jitter = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        colour = [jitter, gray, T.RandomApply([GaussianBlur(0.1, 2.0)], p=0.5)]
    else:
        raise ConfigError(f"AUG.RECIPE is '{name}'; it must be v1 or v2")
    return T.Compose([crop, *colour, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


class TwoCrops:
    """Two independent views of one image: the query's, then the key's."""

    def __init__(self, view: Callable[[Image.Image], Tensor]):
        self.view = view

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        return self.view(image), self.view(image)


class OneCrop:
    """One view, for a mechanism whose keys are stored features."""

    def __init__(self, view: Callable[[Image.Image], Tensor]):
        self.view = view

    def __call__(self, image: Image.Image) -> tuple[Tensor]:
        return (self.view(image),)
