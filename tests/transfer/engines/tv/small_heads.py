"""Small RoI heads, and what is put through them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.transfer.engines.tv.test_matching import boxes
from transfer.engines.tv.heads import HiddenBoxHead, MaskHead, Res5BoxHead, box_predictor
from transfer.engines.tv.masks import Bitmaps
from transfer.engines.tv.roi_heads import AlignedRoIPool, Heads, iou_thresholds

K = 3  # foreground classes
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def heads(**settings: Any) -> Heads:
    """Small heads on one map, "res4", of stride 4 and 4 channels; settings replace those below."""
    given: dict[str, Any] = dict(
        box_roi_pool=AlignedRoIPool({"res4": 4}, 2, 2), box_head=HiddenBoxHead(16, 8, 2), thresholds=[0.5],
        batch_size_per_image=16, positive_fraction=0.25, bbox_reg_weights=WEIGHTS, score_thresh=0.05, nms_thresh=0.5,
        detections_per_img=100, num_classes=K, smooth_l1_beta=0.0, box_loss_weight=1.0, append_gt=True,
    )  # fmt: skip
    given |= settings
    pool, head = given.pop("box_roi_pool"), given.pop("box_head")
    predictor = box_predictor(head.out_channels, given["num_classes"])
    return Heads(pool, head, predictor, **iou_thresholds(given.pop("thresholds")), **given)


class Halving(nn.Module):
    """Stands for conv5: half the resolution, twice the channels. Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(4, 8, 3, stride=2, padding=1), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x)


def shared_conv5() -> tuple[Heads, Halving]:
    """The heads of a C4 detector with masks."""
    conv5 = Halving()
    pool, head = AlignedRoIPool({"res4": 4}, 4, 2), Res5BoxHead(conv5, 8, None)
    return heads(box_roi_pool=pool, box_head=head, mask_head=MaskHead(8, 6, 0, K)), conv5


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both, 1e-12)


def target(gt: Tensor, labels: list[int]) -> dict[str, Any]:
    return {"boxes": gt, "labels": torch.tensor(labels, dtype=torch.int64)}


def batch() -> tuple[dict[str, Tensor], list[Tensor], list[dict[str, Any]]]:
    """Three images of 100 x 112 pixels with some proposals each; the second has no object."""
    gt = torch.tensor([[10.0, 10, 30, 40], [50, 20, 90, 60], [5, 60, 70, 95]])
    truths = [target(gt[:2], [2, 0]), target(gt[:0], []), target(gt[1:], [1, 2])]
    masks = torch.rand(3, 100, 112) < 0.6
    for truth, of in zip(truths, (masks[:2], masks[:0], masks[1:]), strict=True):
        truth["masks"] = Bitmaps(of)
    near = [gt[:2] + 1, gt[:0], gt[1:].repeat(3, 1) - 1.5]
    proposals = [torch.cat([boxes(9, seed), close, boxes(4, seed + 50)]) for seed, close in enumerate(near)]
    return {"res4": torch.randn(3, 4, 25, 28)}, proposals, truths
