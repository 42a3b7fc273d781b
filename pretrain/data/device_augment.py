"""Applies the recipes of `pretrain.data.augment`, but leaves colours, blur and flip to the training device.

A loader process decodes and crops, and sends with each crop what was drawn for it; the device then does the same steps
on a whole batch. Draws are those of the other backends. From the crop on, pixels equal Pillow's exactly, because each
step computes what Pillow does, in integers or in floats of the same size; the crop itself is that of
`pretrain.data.fast_augment`, which differs from Pillow's by 0.002 levels on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretrain.data.augment import SIGMA
from pretrain.data.draws import Draws
from pretrain.data.fast_augment import Drawn, FastRecipe, crop
from pretrain.data.views import Batch

MAX_STEPS = 6  # four of the jitter, gray, blur
NONE = -1.0  # the kind of a step that is not taken


class Crop(NamedTuple):
    """Holds an unfinished view or, if every shape begins with N, a batch of N of them.

    Attributes:
        pixels: 3 x H x W, uint8.
        steps: `MAX_STEPS` x 2, float32: the number of the step in `STEPS`, or `NONE`; and the step's parameter.
        flip: one bool, whether the view is mirrored in the end.
    """

    pixels: Tensor
    steps: Tensor
    flip: Tensor


class CropRecipe(FastRecipe):
    """Draws what `FastRecipe` draws, but only crops: H x W x 3 RGB uint8 -> `Crop`."""

    def view(self, pixels: np.ndarray, draws: Draws) -> Crop:  # type: ignore[override]
        height, width = pixels.shape[:2]
        drawn = self.draw(height, width, draws)
        view = torch.from_numpy(crop(pixels, drawn.box, self.crop_size)).permute(2, 0, 1)
        return Crop(view, _as_tensor(drawn), torch.tensor(drawn.flip))


def _as_tensor(drawn: Drawn) -> Tensor:
    steps = [(KINDS[name], value) for name, value in drawn.steps]
    return torch.tensor(steps + [(NONE, 0.0)] * (MAX_STEPS - len(steps)))


def finished(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Turns batches of `Crop`s into batches of views on the device; a batch that could not be read stays as it is."""
    for batch in batches:
        crops: Any = batch.views
        yield batch if crops is None else batch._replace(views=tuple(finish(crop, device) for crop in crops))


def finish(view: Crop, device: torch.device) -> Tensor:
    """Does the remaining steps of N crops on the device: returns N x 3 x H x W, uint8. The host does not wait for it.

    Args:
        view: the crops on the CPU; every shape begins with N.
    """
    x = view.pixels.to(device, non_blocking=True, copy=True)
    groups = [(kind, place, chosen) for place in range(MAX_STEPS) for kind, chosen in _by_kind(view.steps[:, place, 0])]
    if groups:
        # All indices and parameters cross at once: a copy for each group would cost more than the group.
        images = _sent(torch.cat([chosen for *_, chosen in groups]), device)
        values = _sent(torch.cat([view.steps[chosen, place, 1] for _, place, chosen in groups]), device)
        at = 0
        for kind, _, chosen in groups:
            part = slice(at, at := at + len(chosen))
            changed = STEPS[kind](x.index_select(0, images[part]), values[part].view(-1, 1, 1, 1))
            x.index_copy_(0, images[part], changed)
    flip = _sent(view.flip, device).view(-1, 1, 1, 1)
    return torch.where(flip, x.flip(3), x)


def _by_kind(kinds: Tensor) -> Iterator[tuple[int, Tensor]]:
    for kind in range(len(STEPS)):
        chosen = (kinds == kind).nonzero()[:, 0]
        if len(chosen):
            yield kind, chosen


def _sent(x: Tensor, device: torch.device) -> Tensor:
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


# What follows takes images (N x 3 x H x W, uint8) and a parameter for each (N x 1 x 1 x 1, float32), and gives images.


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(torch.zeros_like(factor), x, factor)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scales the distance of every value from the mean of the grey image by `factor`."""
    levels = luma(x)
    n = levels[0].numel()
    mean = (2 * levels.sum((1, 2, 3), keepdim=True) + n) // (2 * n)  # rounded; in integers, the same on every device
    return _blend(mean.float(), x, factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scales the distance of every value from its pixel's grey by `factor`."""
    return _blend(luma(x).float(), x, factor)


def _blend(other: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Moves from `other` (factor 0) to `x` (factor 1) or beyond; cuts to 0..255 and drops the fraction."""
    return (other + factor * (x.float() - other)).clamp_(0, 255).to(torch.uint8)


def luma(x: Tensor) -> Tensor:
    """Returns the grey value of ITU-R 601, with weights of 16 bits, rounded: N x 1 x H x W, int32."""
    r, g, b = x.int().split(1, dim=1)
    return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16


def gray(x: Tensor, _: Tensor) -> Tensor:
    return luma(x).to(torch.uint8).expand_as(x)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue by `turn` of the circle, in HSV of 8 bits each; floats have the same precision as in Pillow."""
    rgb = x.int()
    high = rgb.amax(1, keepdim=True)
    span = high - rgb.amin(1, keepdim=True)
    r, g, b = ((high - rgb).float() / span.clamp(min=1).float()).double().split(1, dim=1)  # how far below the highest
    is_r, is_g, _ = (rgb == high).split(1, dim=1)
    sixths = torch.where(is_r, (b - g).float(), torch.where(is_g, (2 + r - b).float(), (4 + g - r).float()))
    angle = (sixths.double() / 6 + 1).fmod(1).float()
    hues = torch.where(span == 0, 0, (angle.double() * 255).int())
    saturated = ((span.float() / high.clamp(min=1).float()).double() * 255).int()

    turned = (hues + (turn * 255).int()) & 255
    sector = torch.div(turned * 6, 255, rounding_mode="floor")
    within, share = (turned.double() * 6 / 255 - sector).float(), (saturated.double() / 255).float()
    value = high.double()
    levels = 1 - share.double(), 1 - (share * within).double(), 1 - share.double() * (1 - within.double())
    p, q, t = ((value * level + 0.5).int() for level in levels)
    v, at = high, sector % 6
    columns = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)]
    out = torch.zeros_like(rgb)
    for place, column in enumerate(columns):
        out = torch.where(at == place, torch.cat(column, 1), out)
    return out.to(torch.uint8)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Applies three box filters along each side, which together approximate a Gaussian of `sigma` pixels.

    The radius of a box is a real number, so that its two ends weigh less than the rest (Gwosdek et al., SSVM 2011, eq.
    7, 11, 14); weights have 24 bits. The border is repeated for each box, and each box gives whole levels.
    """
    radius = box_radius(sigma)
    whole = radius.int()
    inner = (2**24 / (radius * 2 + 1)).long()
    outer = (2**24 - (2 * whole + 1) * inner) // 2
    weights = {k: torch.where(whole >= k, inner, torch.where(whole + 1 == k, outer, 0)) for k in range(REACH + 1)}
    for side in (3, 2):
        places = torch.arange(x.shape[side], device=x.device)
        near = {k: (places + k).clamp_(0, x.shape[side] - 1) for k in range(-REACH, REACH + 1)}
        for _ in range(3):
            total = torch.full((), 2**23, dtype=torch.int64, device=x.device)
            for k, index in near.items():
                total = total + weights[abs(k)] * x.index_select(side, index)
            x = (total >> 24).to(torch.uint8)
    return x


def box_radius(sigma: Tensor) -> Tensor:
    """Returns the radius of a box that, applied three times, spreads by `sigma`; rounded to float32, as its root is."""
    variance = sigma * sigma / 3
    length = (12.0 * variance.double() + 1.0).sqrt().float()
    whole = ((length - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + part / (6 * (variance - (whole + 1) * (whole + 1)))


REACH = int(box_radius(torch.tensor(SIGMA[1]))) + 1  # pixels to each side, of the widest blur

STEPS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brightness, contrast, saturation, hue, gray, blur)
KINDS = {step.__name__: float(kind) for kind, step in enumerate(STEPS)}
