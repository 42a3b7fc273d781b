"""Takes keypoints through augmentation and down to cells of an RoI's map, and predicted maps back to the image.

Shape shorthand: M objects of one image, R RoIs of all images, k keypoints, S side of a map of logits. Points are
(x, y, visibility) in continuous pixels; 0 stands for a point that is not labelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def transform(
    points: np.ndarray, old: tuple[int, int], new: tuple[int, int], order: Sequence[int] | None
) -> np.ndarray:
    """Resizes and flips points with their image; those that end outside it become unlabelled (all zeros).

    Args:
        points: (M, k, 3) float64 in pixels of an image of size `old`, (height, width).
        order: which point stands at each place of a mirrored image's list; None does not mirror.

    Returns:
        (M, k, 3) float32.
    """
    (old_h, old_w), (new_h, new_w) = old, new
    x, y = points[..., 0] * (new_w / old_w), points[..., 1] * (new_h / old_h)
    if order is not None:
        x = new_w - x
    kept = (points[..., 2] > 0) & (x >= 0) & (y >= 0) & (x <= new_w) & (y <= new_h)
    out = np.stack([x, y, points[..., 2]], axis=-1) * kept[..., None]
    return (out if order is None else out[:, list(order)]).astype(np.float32)


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Says which labelled points lie in their RoI, borders included. (R, k, 3), (R, 4) XYXY -> (R, k) bool."""
    xy, corners = points[..., :2], boxes[:, None]
    within = (xy >= corners[..., :2]) & (xy <= corners[..., 2:])
    return within.all(dim=-1) & (points[..., 2] > 0)


def cells(points: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Returns the cell in which each point lies, of an S x S map over its RoI, and whether it lies in any.

    A point on the right or lower border belongs to the last cell.

    Shapes: (R, k, 3), (R, 4) XYXY -> (R, k) int64 in [0, S * S), (R, k) bool.
    """
    corner, far = boxes[:, None, :2], boxes[:, None, 2:]
    scale = side / (far - corner)
    at = ((points[..., :2] - corner) * scale).floor().long()  # R x k x 2
    at = torch.where(points[..., :2] == far, side - 1, at)
    valid = ((at >= 0) & (at < side)).all(dim=-1) & (points[..., 2] > 0)
    return (at[..., 1] * side + at[..., 0]) * valid, valid


def loss(
    logits: Tensor, points: Tensor, boxes: Tensor, images: int, weight: float = 1.0, per_image: float | None = None
) -> Tensor:
    """Returns the cross-entropy over the cells of each labelled point's map; 0 if no point is in its RoI.

    Args:
        logits: (R, k, S, S); points: (R, k, 3); boxes: (R, 4) XYXY.
        images: number of images in this process's batch.
        per_image: the sum is divided by this times `images`; None takes the mean over this process's labelled points.
    """
    target, valid = cells(points, boxes, logits.shape[-1])
    if not valid.any():
        return logits.sum() * 0.0
    total = F.cross_entropy(logits.flatten(2)[valid], target[valid], reduction="sum")
    return total / (valid.sum() if per_image is None else images * per_image) * weight


def located(logits: Tensor, boxes: Tensor) -> Tensor:
    """Returns the surest pixel of each point's map, which bicubic interpolation stretches over its box.

    The score is the softmax over space, normalised over the S x S map so that boxes of different sizes compare.

    Shapes: (R, k, S, S), (R, 4) XYXY -> (R, k, 3): x, y in pixels of the boxes' image, score.
    """
    extents = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)  # R x 2: width, height
    pixels = extents.ceil()
    out = logits.new_zeros(len(boxes), logits.shape[1], 3)
    for i, (width, height) in enumerate(pixels.long().tolist()):
        fine = F.interpolate(logits[[i]], size=(height, width), mode="bicubic", align_corners=False)[0].flatten(1)
        highest, place = fine.max(dim=1)  # k
        at = torch.stack([place % width, place // width], dim=1)
        out[i, :, :2] = (at + 0.5) * (extents[i] / pixels[i]) + boxes[i, :2]
        out[i, :, 2] = 1 / (logits[i].flatten(1) - highest[:, None]).exp().sum(dim=1)
    return out
