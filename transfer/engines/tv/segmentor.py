"""Implements FCN-16s: a ResNet with dilated conv5, two dilated convolutions, a classifier per pixel (MoCo, appendix).

Parameters have the names of the Detectron2 engine's head. Shape shorthand: N images; K classes; (H, W) size of the
padded batch; (h, w) of an image as the network sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfer.engines.tv.backbone import Stages, zero_padded


class _ConvNorm(nn.Conv2d):
    """Applies a dilated 3x3 convolution, its norm (held inside, as in Detectron2's Conv2d) and ReLU."""

    def __init__(self, channels: int, width: int, dilation: int, norm: Callable[[int], nn.Module] | None):
        super().__init__(channels, width, 3, padding=dilation, dilation=dilation, bias=norm is None)
        self.norm = None if norm is None else norm(width)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu(x if self.norm is None else self.norm(x))


class FCNHead(nn.Module):
    """Turns (N, C, H/16, W/16) into logits (N, K, H', W'), H' >= H and W' >= W; see `aligned_upsampling`."""

    def __init__(
        self,
        channels: int,
        stride: int,
        *,
        width: int,
        dilation: int,
        norm: Callable[[int], nn.Module] | None,
        num_classes: int,
    ):
        super().__init__()
        self.stride = stride
        self.conv1 = _ConvNorm(channels, width, dilation, norm)
        self.conv2 = _ConvNorm(width, width, dilation, norm)
        self.predictor = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        return aligned_upsampling(self.predictor(self.conv2(self.conv1(x))).float(), self.stride)


class Segmentor(nn.Module):
    """Turns batches of dicts into losses or logits; it is called as Detectron2's SemanticSegmentor is.

    In training `forward(batch)` takes dicts with "image" (uint8 (3, h, w), channel order of the config) and "sem_seg"
    ((h, w) integers), and returns {"loss_sem_seg": ...}. In evaluation it takes "image", "height" and "width" of the
    original, and returns per image the logits (K, height, width).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: Stages,
        head: FCNHead,
        feature: str,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        ignore_label: int,
        loss_weight: float,
    ):
        """
        Args:
            feature: name of the backbone's map that the head takes.
            mean, std: mean and standard deviation of the pixels, range 0..255, in the images' channel order.
        """
        super().__init__()
        self.backbone, self.sem_seg_head, self.feature = backbone, head, feature
        self.ignore_label, self.loss_weight = ignore_label, loss_weight
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        images = [
            (s["image"].to(self.pixel_mean.device, non_blocking=True) - self.pixel_mean) / self.pixel_std for s in batch
        ]
        padded = zero_padded(images, 1)
        logits = self.sem_seg_head(self.backbone(padded)[self.feature])
        if not self.training:
            return [
                at_size(of_one[:, : image.shape[1], : image.shape[2]], (sample["height"], sample["width"]))
                for of_one, image, sample in zip(logits, images, batch, strict=True)
            ]
        targets = torch.full(
            (len(batch), *padded.shape[2:]), self.ignore_label, dtype=torch.int64, device=padded.device
        )
        for target, sample in zip(targets, batch, strict=True):
            h, w = sample["sem_seg"].shape
            target[:h, :w].copy_(sample["sem_seg"], non_blocking=True)
        return {"loss_sem_seg": self.loss_weight * pixel_loss(logits, targets, self.ignore_label)}


def aligned_upsampling(logits: Tensor, stride: int) -> Tensor:
    """Upsamples bilinearly, with value i of a row at pixel i * stride, where a ResNet's convolutions centre it.

    For a side of a multiple of the stride, plus 1, the corners coincide; beyond the last value, that one is repeated.
    (N, K, h, w) -> (N, K, h * stride, w * stride).
    """
    h, w = logits.shape[2:]
    inner = F.interpolate(
        logits, size=((h - 1) * stride + 1, (w - 1) * stride + 1), mode="bilinear", align_corners=True
    )
    return F.pad(inner, (0, stride - 1, 0, stride - 1), mode="replicate")


def pixel_loss(logits: Tensor, targets: Tensor, ignore_label: int) -> Tensor:
    """Returns the cross-entropy as a mean over the labelled pixels; 0 if there are none.

    Args:
        logits: (N, K, H', W'), cut to the targets' size.
        targets: (N, H, W) int64.
    """
    H, W = targets.shape[1:]
    total = F.cross_entropy(logits[:, :, :H, :W], targets, ignore_index=ignore_label, reduction="sum")
    return total / (targets != ignore_label).sum().clamp(min=1)


def at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes (K, h, w) bilinearly to (K, *size); unchanged if that is its own size."""
    if logits.shape[1:] == size:
        return logits
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
