"""The two augmentation recipes, and one or two views by them. All randomness comes from torch's CPU generator.

v1 is that of arXiv:1911.05722, v2 ("aug+") that of arXiv:2003.04297; the order of the steps is the reference's. Here
they are made of torchvision's transforms, as in the reference; `pretrain.fast_augment` draws and does the same faster.

Views leave as bytes, a quarter of what floats would be between processes; `normalise` is left to the training device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T

from pretrain.runtime.config import ConfigError

MEAN = (0.485, 0.456, 0.406)  # RGB, for values in [0, 1]
STD = (0.229, 0.224, 0.225)

# brightness, contrast, saturation (factors in 1 +- x) and hue (+- x of the circle)
JITTER = {"v1": (0.4, 0.4, 0.4, 0.4), "v2": (0.4, 0.4, 0.4, 0.1)}
JITTER_P, GRAY_P, BLUR_P = 0.8, 0.2, 0.5  # JITTER_P, BLUR_P: v2; v1 always jitters and never blurs
SIGMA = (0.1, 2.0)  # pixels


class GaussianBlur:
    """Blurs a PIL image with a sigma (pixels) drawn from U(low, high), as SimCLR does."""

    def __init__(self, low: float = 0.1, high: float = 2.0):
        self.low, self.high = low, high

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = torch.empty(()).uniform_(self.low, self.high).item()
        return image.filter(ImageFilter.GaussianBlur(radius=sigma))

    def __repr__(self) -> str:
        return f"GaussianBlur(low={self.low}, high={self.high})"


def jitter(name: str) -> T.ColorJitter:
    """The colour jitter of a recipe.

    Raises:
        ConfigError: `name` is neither v1 nor v2.
    """
    if name not in JITTER:
        raise ConfigError(f"AUG.RECIPE is '{name}'; it must be v1 or v2")
    return T.ColorJitter(*JITTER[name])


def recipe(name: str, crop_size: int = 224, scale: tuple[float, float] = (0.2, 1.0)) -> T.Compose:
    """One random view: RGB PIL image -> 3 x crop_size x crop_size, uint8.

    Args:
        name: "v1" or "v2".
        crop_size: pixels.
        scale: smallest and largest area of the crop over the area of the image.

    Raises:
        ConfigError: another name.
    """
    crop, colour, gray = T.RandomResizedCrop(crop_size, scale=tuple(scale)), jitter(name), T.RandomGrayscale(GRAY_P)
    steps: list[Any] = [gray, colour]
    if name == "v2":
        steps = [T.RandomApply([colour], JITTER_P), gray, T.RandomApply([GaussianBlur(*SIGMA)], BLUR_P)]
    return T.Compose([crop, *steps, T.RandomHorizontalFlip(), T.PILToTensor()])


def normalise(
    images: Tensor, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """What an encoder takes, of what a recipe gives: bit for bit torchvision's ToTensor and Normalize.

    Args:
        images: N x 3 x H x W, RGB, uint8; copied to `device` before they grow fourfold.
        memory_format: of the result.

    Returns:
        N x 3 x H x W, float32: values over 255, minus `MEAN`, over `STD`.
    """
    x = images.to(device, non_blocking=True).to(torch.float32, memory_format=memory_format)
    mean, std = _statistics(device)
    return x.div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=1)  # made once, because a copy to a GPU would have the host wait in every step
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(MEAN, device=device).view(3, 1, 1), torch.tensor(STD, device=device).view(3, 1, 1)


class TwoCrops:
    """Two independent views of one image: the query's, then the key's."""

    def __init__(self, view: Callable[[Any], Tensor]):
        self.view = view

    def __call__(self, image: Any) -> tuple[Tensor, Tensor]:
        return self.view(image), self.view(image)


class OneCrop:
    """One view, for a mechanism whose keys are stored features."""

    def __init__(self, view: Callable[[Any], Tensor]):
        self.view = view

    def __call__(self, image: Any) -> tuple[Tensor]:
        return (self.view(image),)
