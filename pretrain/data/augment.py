"""Defines the augmentation recipes, and makes one or two views by them, with torch's CPU generator.

v1 is the recipe of arXiv:1911.05722, v2 ("aug+") that of arXiv:2003.04297, both in the order of the reference's steps;
simclr is v2 with the stronger colours of arXiv:2002.05709 (strength 1); supervised is a crop and a flip. Here they are
made of torchvision's transforms, as in the reference; `pretrain.data.fast_augment` draws and does the same faster.

Loader processes pass views on as bytes, a quarter of what floats would take; `normalise` is left to the training
device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T

from pretrain.runtime.config import ConfigError

MEAN = (0.485, 0.456, 0.406)  # RGB, for values in [0, 1]
STD = (0.229, 0.224, 0.225)

View = Callable[[Any], Tensor]  # an RGB image -> 3 x H x W

SIGMA = (0.1, 2.0)  # of the blur, pixels


@dataclass(frozen=True)
class Recipe:
    """Says what happens to a view between its crop and its flip.

    Attributes:
        steps: jitter, gray or blur, each with its probability, in the order in which they are done.
        jitter: brightness, contrast, saturation (factors in 1 +- x) and hue (+- x of the circle).
    """

    steps: tuple[tuple[str, float], ...] = ()
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def colour(self) -> T.ColorJitter:
        return T.ColorJitter(*self.jitter)


_STRONG = (("jitter", 0.8), ("gray", 0.2), ("blur", 0.5))
RECIPES = {
    "v1": Recipe((("gray", 0.2), ("jitter", 1.0)), (0.4, 0.4, 0.4, 0.4)),
    "v2": Recipe(_STRONG, (0.4, 0.4, 0.4, 0.1)),
    "simclr": Recipe(_STRONG, (0.8, 0.8, 0.8, 0.2)),
    "supervised": Recipe(),
}


def by_name(name: str) -> Recipe:
    """Returns an entry of `RECIPES`.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"AUG.RECIPE is '{name}'; it must be {' or '.join(RECIPES)}")
    return RECIPES[name]


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
    """Returns the transform that makes one random view: RGB PIL image -> 3 x crop_size x crop_size, uint8.

    Args:
        name: a key of `RECIPES`.
        crop_size: side of the crop in pixels.
        scale: smallest and largest area of the crop, relative to the area of the image.

    Raises:
        ConfigError: there is no such recipe.
    """
    found = by_name(name)
    make: dict[str, Callable[[float], Any]] = {
        "jitter": lambda p: found.colour() if p == 1 else T.RandomApply([found.colour()], p),
        "gray": T.RandomGrayscale,
        "blur": lambda p: T.RandomApply([GaussianBlur(*SIGMA)], p),
    }
    steps = [make[step](p) for step, p in found.steps]
    crop = T.RandomResizedCrop(crop_size, scale=tuple(scale))
    return T.Compose([crop, *steps, T.RandomHorizontalFlip(), T.PILToTensor()])


def normalise(
    images: Tensor, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Turns what a recipe makes into what an encoder takes: bit for bit torchvision's ToTensor and Normalize.

    Args:
        images: N x 3 x H x W, RGB, uint8; copied to `device` before they grow fourfold.
        memory_format: memory format of the result.

    Returns:
        N x 3 x H x W, float32: values divided by 255, minus `MEAN`, divided by `STD`.
    """
    x = images.to(device, non_blocking=True).to(torch.float32, memory_format=memory_format)
    mean, std = _statistics(device)
    return x.div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=1)  # made once, because a copy to a GPU would have the host wait in every step
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(MEAN, device=device).view(3, 1, 1), torch.tensor(STD, device=device).view(3, 1, 1)


@contextmanager
def seeded(view: View, seed: int) -> Iterator[View]:
    """Lends `view` with torch's CPU generator, from which it draws, started at `seed`; then restores the generator."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield view
    finally:
        generator.set_state(state)


class TwoCrops:
    """Makes two independent views of one image from the draws of one seed: the query's, then the key's.

    Args:
        view: makes one view, with torch's CPU generator or, if it has a method `begin`, with draws of its own.
    """

    def __init__(self, view: View):
        self.begin = getattr(view, "begin", None) or partial(seeded, view)

    def __call__(self, image: Any, seed: int) -> tuple[Tensor, ...]:
        with self.begin(seed) as view:
            return view(image), view(image)


class OneCrop(TwoCrops):
    """Makes one view, for a mechanism whose keys are stored features, or that has no keys."""

    def __call__(self, image: Any, seed: int) -> tuple[Tensor, ...]:
        with self.begin(seed) as view:
            return (view(image),)
