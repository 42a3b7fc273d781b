"""Takes ground-truth masks through augmentation and down to RoIs, and predicted masks back to the image.

Shape shorthand: M objects of one image, (h, w) size of the network's input, R RoIs, S side of a mask target in pixels.
Boxes are XYXY in absolute pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

Size = tuple[int, int]  # height, width


class Masks(Protocol):
    """Holds the masks of one image's objects."""

    def nonempty(self) -> Tensor:
        """Returns (M,) bool: whether an object still has a polygon or pixel."""
        ...

    def select(self, keep: Tensor) -> Masks:
        """Returns the masks of the objects for which `keep`, (M,) bool, is set."""
        ...

    def crop(self, of: Tensor, boxes: Tensor, side: int) -> Tensor:
        """Returns a mask head's targets: the part of object of[i]'s mask inside boxes[i], at S x S.

        Shapes: (R,) int64, (R, 4) -> (R, S, S) bool, on the device of `boxes`.
        """
        ...


class Polygons:
    """Holds objects as polygons [x0, y0, x1, y1, ...], rasterised for every RoI (INPUT.MASK_FORMAT polygon)."""

    def __init__(self, objects: Sequence[Sequence[np.ndarray] | np.ndarray]):
        self.objects = objects

    def nonempty(self) -> Tensor:
        return torch.tensor([len(polygons) > 0 for polygons in self.objects], dtype=torch.bool)

    def select(self, keep: Tensor) -> Polygons:
        return Polygons([polygons for polygons, kept in zip(self.objects, keep.tolist(), strict=True) if kept])

    def crop(self, of: Tensor, boxes: Tensor, side: int) -> Tensor:
        windows = torch.cat([boxes.detach(), of[:, None].to(boxes.dtype)], dim=1).cpu().numpy()  # one copy to the host
        targets = [_rasterise(self.objects[int(window[4])], window[:4], side) for window in windows]
        stacked = np.stack(targets) if targets else np.zeros((0, side, side), dtype=bool)
        return torch.from_numpy(stacked).to(boxes.device)


class Bitmaps:
    """Holds objects as (M, h, w) bool, pooled for every RoI and cut at one half (INPUT.MASK_FORMAT bitmask)."""

    def __init__(self, maps: Tensor):
        self.maps = maps

    def nonempty(self) -> Tensor:
        return self.maps.flatten(1).any(dim=1)

    def select(self, keep: Tensor) -> Bitmaps:
        return Bitmaps(self.maps[keep])

    def crop(self, of: Tensor, boxes: Tensor, side: int) -> Tensor:
        maps = self.maps.to(boxes.device)[of].unsqueeze(1).to(boxes.dtype)  # R x 1 x h x w
        rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes.dtype), boxes], dim=1)
        return roi_align(maps, rois, side, spatial_scale=1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5


def _rasterise(polygons: Sequence[np.ndarray] | np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """Returns the union of the polygons inside the box as (S, S) bool."""
    scale = [side / max(extent, 0.1) for extent in (box[2] - box[0], box[3] - box[1])]
    return bitmap([((p.reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in polygons], (side, side))


def bitmap(segmentation: Sequence[np.ndarray] | Mapping[str, Any], size: Size) -> np.ndarray:
    """Turns polygons, or an RLE of this size, into (h, w) bool."""
    if isinstance(segmentation, Mapping):
        return mask_util.decode(segmentation).astype(bool)
    if not len(segmentation):
        return np.zeros(size, dtype=bool)
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(list(segmentation), *size))).astype(bool)


def transform(segmentation: Any, old: Size, new: Size, flip: bool) -> list[np.ndarray] | np.ndarray:
    """Resizes and flips a record's segmentation: polygons stay polygons, an RLE becomes a bitmap of the new size."""
    if isinstance(segmentation, Mapping):
        pixels = Image.fromarray(mask_util.decode(segmentation))
        resized = np.asarray(pixels.resize((new[1], new[0]), Image.Resampling.NEAREST)) > 0
        return np.ascontiguousarray(resized[:, ::-1]) if flip else resized
    polygons = []
    for polygon in segmentation:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * [new[1] / old[1], new[0] / old[0]]
        if flip:
            points[:, 0] = new[1] - points[:, 0]
        polygons.append(points.reshape(-1))
    return polygons


def paste(masks: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Pastes predicted masks into their boxes and returns them as compressed RLEs of the whole image.

    Every pixel's centre is looked up bilinearly in its box's mask; outside of the mask everything is 0.

    Args:
        masks: (R, S, S) probabilities.
        boxes: (R, 4) in pixels of the image.
        size: (height, width) of the image.
    """
    height, width = size
    found = []
    for mask, box in zip(masks.float().cpu(), boxes.float().cpu(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        left, top = max(int(np.floor(x0)) - 1, 0), max(int(np.floor(y0)) - 1, 0)
        right, bottom = min(int(np.ceil(x1)) + 1, width), min(int(np.ceil(y1)) + 1, height)
        ys = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        xs = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], dim=2)
        region = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= threshold
        whole = np.zeros((height, width), dtype=np.uint8, order="F")
        whole[top:bottom, left:right] = region.numpy()
        found.append(mask_util.encode(whole))
    return found
