"""Resizes an image of any size in steps that tracers follow, equal to PIL's resize to the last bit.

A size here is a tensor with one element per side, never a tensor without axes: ONNX's exporter takes those for Python
numbers and computes with them in float32. Shape shorthand: (H, W) the given image, (h, w) the resized one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.onnx.operators import shape_as_tensor

_UNIT = 2.0**22  # PIL's weights are whole numbers of its inverse


def shape(x: Tensor) -> Tensor:
    """Returns a tensor's shape as an int64 tensor that no tracer takes for constant."""
    if torch.jit.is_tracing():
        return shape_as_tensor(x)
    return torch.stack([torch.scalar_tensor(side, dtype=torch.int64) for side in x.shape])


def size_of(image: Tensor) -> Tensor:
    """Returns (H, W) of (..., H, W) as (2,) int64."""
    return shape(image)[-2:]


def number(x: Tensor, least: int) -> int:
    """Returns a tensor's one whole number for use as a size, and tells torch.export that it is at least `least`."""
    if torch.jit.is_tracing():
        return x  # type: ignore[return-value]  # traced as the size that it is
    found: int = x.item()  # type: ignore[assignment]  # of whole numbers
    torch._check(found >= least)
    return found


def xyxy(size: Tensor) -> Tensor:
    """Turns (2,) h, w into (4,) float32 w, h, w, h, in the order of boxes' coordinates."""
    return size.float().flip(0).repeat(2)


def output_size(size: Tensor, short_edge: int, max_size: int) -> Tensor:
    """Computes `mapper.output_size` of a (2,) int64 size."""
    edges = size.double()
    edges = edges * (short_edge / edges.amin(0, keepdim=True))
    edges = torch.where(size == size.amin(0, keepdim=True), float(short_edge), edges)
    longest = edges.amax(0, keepdim=True)
    edges = torch.where(longest > max_size, edges * (max_size / longest), edges)
    return (edges + 0.5).floor().long()


def resized(image: Tensor, size: Tensor) -> Tensor:
    """Resizes as `mapper.resize`: rows first, each pass rounded to 8 bits; float64 is exact for these numbers.

    Shapes: (3, H, W) uint8, (2,) int64 h, w -> (3, h, w) float32 of whole numbers.
    """
    old = size_of(image)
    rows = torch.matmul(image.double(), _weights(old[1:], size[1:], new_dim=1))
    both = torch.matmul(_weights(old[:1], size[:1], new_dim=0), _eight_bits(rows))
    return _eight_bits(both).float()


def _weights(old: Tensor, new: Tensor, new_dim: int) -> Tensor:
    """Returns the weight in units of each of `old` pixels for each of `new`.

    Nothing is transposed: ONNX Runtime 1.23 and earlier fuse that with the product and have no kernel for float64.

    Shapes: (1,), (1,) -> float64 of (new, old), or of (old, new) if `new_dim` is 1.
    """
    old_dim = 1 - new_dim
    scale = old.double() / new.double()
    reach = scale.clamp(min=1.0)
    centre = (torch.arange(number(new[0], 1)).double().unsqueeze(old_dim) + 0.5) * scale
    pixel = torch.arange(number(old[0], 1)).double().unsqueeze(new_dim)
    first, last = (centre - reach + 0.5).floor(), (centre + reach + 0.5).floor()
    weight = (1.0 - ((pixel - centre + 0.5) * (1.0 / reach)).abs()).clamp(min=0.0)
    weight = torch.where((pixel >= first) & (pixel < last), weight, 0.0)
    return (weight / weight.sum(dim=old_dim, keepdim=True) * _UNIT + 0.5).floor()


def _eight_bits(sums: Tensor) -> Tensor:
    return (sums / _UNIT + 0.5).floor().clamp(0.0, 255.0)
