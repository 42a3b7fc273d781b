"""Defines heads on pooled RoIs: conv5 or two hidden layers for boxes, small fully convolutional nets for the rest.

Shape shorthand: R RoIs of all images, C channels, P pooled resolution, K foreground classes, k keypoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor


class Res5BoxHead(nn.Module):
    """Applies conv5 to every RoI, then the extra norm of the MoCo papers, then global average pooling.

    "the box prediction head consists of the conv5 stage (including global pooling) followed by a BN layer"
    (MoCo, appendix A.1); as in the reference the norm stands before the pooling, which is linear.

    Shapes: (R, C, P, P) RoI features -> (R, 2C).
    """

    def __init__(self, layer4: nn.Module, channels: int, norm: Callable[[int], nn.Module] | None):
        super().__init__()
        self.layer4 = layer4
        self.norm = norm(channels) if norm is not None else nn.Identity()
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean(dim=(2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """Returns the maps before pooling, which the mask head shares: (R, C, P, P) -> (R, 2C, P/2, P/2)."""
        return self.norm(self.layer4(x))


class HiddenBoxHead(nn.Sequential):
    """Applies fully connected layers to flattened RoIs (Detectron2's FastRCNNConvFCHead, no convolutions or norm).

    Shapes: (R, C, P, P) -> (R, width).
    """

    def __init__(self, in_features: int, width: int, layers: int):
        """
        Args:
            in_features: C * P * P.
            layers: number of hidden layers, which are named fc1, fc2, ...
        """
        parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number in range(1, layers + 1):
            layer = nn.Linear(in_features if number == 1 else width, width)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            parts[f"fc{number}"], parts[f"relu{number}"] = layer, nn.ReLU()
        super().__init__(parts)
        self.out_channels = width


class MaskHead(nn.Sequential):
    """Implements Mask R-CNN's head: 3x3 convolutions, 2x upsampling, one mask of logits per class; without norm.

    Names are Detectron2's: mask_fcn1, ..., deconv, predictor. Without convolutions it is the head of the C4 detectors.

    Shapes: (R, C, S, S) -> (R, K, 2S, 2S).
    """

    def __init__(self, in_channels: int, width: int, convolutions: int, num_classes: int):
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for number in range(1, convolutions + 1):
            parts[f"mask_fcn{number}"] = _msra(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            parts[f"mask_fcn_relu{number}"] = nn.ReLU()
            channels = width
        parts["deconv"] = _msra(nn.ConvTranspose2d(channels, width, kernel_size=2, stride=2))
        parts["deconv_relu"] = nn.ReLU()
        predictor = nn.Conv2d(width, num_classes, kernel_size=1)
        nn.init.normal_(predictor.weight, std=0.001)
        if predictor.bias is not None:
            nn.init.zeros_(predictor.bias)
        parts["predictor"] = predictor
        super().__init__(parts)


class KeypointHead(nn.Sequential):
    """Implements Mask R-CNN's keypoint head: 3x3 convolutions and two 2x upsamplings give a map of logits per point.

    The first upsampling is a transposed convolution, the second bilinear. Names are Detectron2's: conv_fcn1, ...,
    score_lowres.

    Shapes: (R, C, P, P) -> (R, k, 4P, 4P).
    """

    def __init__(self, in_channels: int, widths: Sequence[int], num_keypoints: int):
        """
        Args:
            widths: channels of the 3x3 convolutions.
        """
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for number, width in enumerate(widths, start=1):
            parts[f"conv_fcn{number}"] = _msra(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            parts[f"conv_fcn_relu{number}"] = nn.ReLU()
            channels = width
        parts["score_lowres"] = _msra(nn.ConvTranspose2d(channels, num_keypoints, kernel_size=4, stride=2, padding=1))
        super().__init__(parts)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(super().forward(x), scale_factor=2.0, mode="bilinear", align_corners=False)


def box_predictor(in_channels: int, num_classes: int) -> FastRCNNPredictor:
    """Makes the layers of K + 1 class scores (background last) and a box per class, initialised as in Detectron2."""
    predictor = FastRCNNPredictor(in_channels, num_classes + 1)
    predictor.bbox_pred = nn.Linear(in_channels, num_classes * 4)
    nn.init.normal_(predictor.cls_score.weight, std=0.01)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    nn.init.zeros_(predictor.cls_score.bias)
    nn.init.zeros_(predictor.bbox_pred.bias)
    return predictor


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Returns the true classes' binary cross-entropy, as a mean over RoIs and mask pixels; 0 without RoIs.

    Shapes: (R, K, S, S) logits, (R,) in [0, K), (R, S, S) bool -> scalar.
    """
    if not len(logits):
        return logits.sum() * 0.0
    chosen = logits[torch.arange(len(logits), device=logits.device), labels]
    return F.binary_cross_entropy_with_logits(chosen, targets.to(chosen.dtype))


def _msra(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
