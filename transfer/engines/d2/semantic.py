"""Adds FCN-16s to Detectron2's SemanticSegmentor: the head (MoCo, appendix) and the mapper that makes its samples."""

from __future__ import annotations

import copy
from typing import Any

import fvcore.nn.weight_init as weight_init
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.runtime.config import ConfigError
from transfer.data.label_maps import read_labels
from transfer.engines.crops import ScaledCrops
from transfer.engines.images import read_image

DILATION = 6  # of the two convolutions


class FCN16sHead(nn.Module):
    """Applies two dilated 3x3 convolutions and a 1x1 classifier, and gives logits at the images' size.

    Value i of a row of logits lies at pixel i * stride, where a ResNet's convolutions centre it. The logits are
    therefore upsampled bilinearly with aligned corners, which gives the target's size for a side of a multiple of the
    stride, plus 1; beyond the last value, that value is repeated.
    """

    conv1: Conv2d
    conv2: Conv2d

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        feature: str,
        width: int,
        norm: str,
        num_classes: int,
        ignore_value: int,
        loss_weight: float,
    ):
        """
        Args:
            input_shape: channels and stride of the feature map that is named `feature`.
            width: number of channels of the convolutions.
        """
        super().__init__()
        self.feature, self.stride = feature, input_shape.stride
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        for number, channels in ((1, input_shape.channels), (2, width)):
            convolution = Conv2d(
                channels, width, kernel_size=3, padding=DILATION, dilation=DILATION, bias=not norm,
                norm=get_norm(norm, width), activation=F.relu,
            )  # fmt: skip
            weight_init.c2_msra_fill(convolution)
            self.add_module(f"conv{number}", convolution)
        self.predictor = Conv2d(width, num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 1 or head.IN_FEATURES[0] not in input_shape:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {head.IN_FEATURES}; FCN16sHead takes one of {list(input_shape)}"
            )
        return {
            "input_shape": input_shape[head.IN_FEATURES[0]],
            "feature": head.IN_FEATURES[0],
            "width": head.CONVS_DIM,
            "norm": head.NORM,
            "num_classes": head.NUM_CLASSES,
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Turns features by name (in training also (N, H, W) labels) into (N, K, H', W') logits or losses by name."""
        logits = self.predictor(self.conv2(self.conv1(features[self.feature]))).float()
        h, w = logits.shape[2:]
        size = (h - 1) * self.stride + 1, (w - 1) * self.stride + 1
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        logits = F.pad(logits, (0, self.stride - 1, 0, self.stride - 1), mode="replicate")
        if not self.training:
            return logits, {}
        assert targets is not None
        H, W = targets.shape[1:]
        total = F.cross_entropy(
            logits[:, :, :H, :W], targets.long(), ignore_index=self.ignore_value, reduction="sum"
        )  # fmt: skip
        mean = total / (targets != self.ignore_value).sum().clamp(min=1)
        return None, {"loss_sem_seg": self.loss_weight * mean}


class CropMapper:
    """Makes training samples of records: scales, crops and mirrors image and map by numpy's global random numbers."""

    def __init__(self, cfg: CfgNode):
        self.crops, self.order = ScaledCrops.of(cfg), cfg.INPUT.FORMAT

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        sample = copy.copy(record)
        image = read_image(sample["file_name"], self.order)
        detection_utils.check_image_size(sample, image)
        labels = read_labels(sample.pop("sem_seg_file_name"))
        image, labels = self.crops(image, labels, self.crops.draw(np.random.random))
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        sample["sem_seg"] = torch.from_numpy(labels.astype("int64"))
        return sample


class TestMapper(DatasetMapper):
    """Maps test images as Detectron2 does, but without their maps: the evaluator reads those itself."""

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        sample: dict[str, Any] = super().__call__({k: v for k, v in record.items() if k != "sem_seg_file_name"})
        return sample


def register_semantic() -> None:
    """Registers the head with Detectron2 under the name that the YAMLs use; a second call does nothing."""
    if FCN16sHead.__name__ not in SEM_SEG_HEADS_REGISTRY:
        SEM_SEG_HEADS_REGISTRY.register(FCN16sHead)
