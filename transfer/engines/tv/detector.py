"""Assembles Faster and Mask R-CNN from their parts; images go in, losses or detections come out.

Shape shorthand: N images; (h, w) size of an image as the network sees it; (H, W) the same padded to the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from transfer.engines.tv.backbone import Backbone, zero_padded
from transfer.engines.tv.masks import paste

_ON_DEVICE = ("boxes", "labels", "keypoints")  # what of a sample goes where the network is, beside the image


class Detector(nn.Module):
    """Detects objects in two stages; it is called with batches of dicts, as Detectron2's models are.

    In training `forward(batch)` takes dicts with "image" (uint8 (3, h, w), channel order of the config), "boxes"
    ((M, 4) float XYXY), "labels" ((M,) int64 in [0, K)) and, for Mask R-CNN, "masks" (`masks.Masks`) or "keypoints"
    ((M, k, 3) float: x, y, visibility), and returns a dict of losses. In evaluation it takes "image" plus "height" and
    "width" of the original and returns per image a dict of boxes (XYXY, original pixels), scores and labels, best
    first, a list of masks (RLEs of the original), and keypoints ((R, k, 3): x, y in original pixels, score).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, backbone: Backbone, rpn: nn.Module, roi_heads: nn.Module, mean: Sequence[float], std: Sequence[float]
    ):
        """
        Args:
            mean, std: mean and standard deviation of the pixels, range 0..255, in the images' channel order.
        """
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        images = self.preprocess([sample["image"] for sample in batch])
        targets = None
        if self.training:
            device = self.pixel_mean.device
            targets = [
                {k: v.to(device, non_blocking=True) if k in _ON_DEVICE else v for k, v in sample.items()}
                for sample in batch
            ]
        features: OrderedDict[str, Tensor] = self.backbone(images.tensors)
        proposals, losses = self.rpn(images, features, targets)
        detections, head_losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        if self.training:
            return {**losses, **head_losses}
        return [
            rescale(detection, size, (sample["height"], sample["width"]))
            for detection, size, sample in zip(detections, images.image_sizes, batch, strict=True)
        ]

    def preprocess(self, images: Sequence[Tensor]) -> ImageList:
        """Normalises by PIXEL_MEAN and PIXEL_STD and pads with zeros to what the backbone needs."""
        normalised = [
            (image.to(self.pixel_mean.device, non_blocking=True) - self.pixel_mean) / self.pixel_std for image in images
        ]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in normalised]
        return ImageList(zero_padded(normalised, self.backbone.multiple), sizes)


def rescale(detection: dict[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> dict[str, Any]:
    """Scales boxes from the network's (h, w) to the original image, clips them, drops empty ones and pastes masks.

    Points are scaled, not clipped.
    """
    (h, w), (height, width) = size, original
    boxes = torch.empty_like(detection["boxes"])
    for axis, (factor, limit) in enumerate(((width / w, width), (height / h, height))):
        boxes[:, axis::2] = (detection["boxes"][:, axis::2] * factor).clamp(0, limit)
    (keep,) = torch.where(((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1))
    kept: dict[str, Any] = {
        "boxes": boxes[keep],
        "scores": detection["scores"][keep],
        "labels": detection["labels"][keep],
    }
    if "keypoints" in detection:
        kept["keypoints"] = points = detection["keypoints"][keep]
        points[:, :, 0] *= width / w
        points[:, :, 1] *= height / h
    if "masks" in detection:
        kept["masks"] = paste(detection["masks"][keep], boxes[keep], original)
    return kept
