"""Faster and Mask R-CNN assembled from their parts; images in, losses or detections out.

Shape shorthand: N images; (h, w) size of an image as the network sees it; (H, W) the same padded to the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead

from transfer.engines.tv.backbone import Backbone, build_backbone, build_trunk, zero_padded
from transfer.engines.tv.heads import HiddenBoxHead, MaskHead, Res5BoxHead, box_predictor
from transfer.engines.tv.masks import paste
from transfer.engines.tv.norm import norm_layer
from transfer.engines.tv.roi_heads import AlignedRoIPool, Heads, iou_thresholds
from transfer.engines.tv.rpn import RPN, Anchors


class Detector(nn.Module):
    """A two-stage detector over batches of dicts, the way Detectron2's models are called.

    In training `forward(batch)` takes dicts with "image" (uint8 (3, h, w), channel order of the config), "boxes"
    ((M, 4) float XYXY), "labels" ((M,) int64 in [0, K)) and, for Mask R-CNN, "masks" (`masks.Masks`), and returns a
    dict of losses. In evaluation it takes "image" plus "height" and "width" of the original and returns per image a
    dict of boxes (XYXY, original pixels), scores and labels, best first, and a list of masks (RLEs of the original).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, backbone: Backbone, rpn: nn.Module, roi_heads: nn.Module, mean: Sequence[float], std: Sequence[float]
    ):
        """
        Args:
            mean, std: of the pixels, range 0..255, in the channel order of the images.
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
                {k: v.to(device, non_blocking=True) if k in ("boxes", "labels") else v for k, v in sample.items()}
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
        normalised = [(image.to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for image in images]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in normalised]
        return ImageList(zero_padded(normalised, self.backbone.multiple), sizes)


def rescale(detection: dict[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> dict[str, Any]:
    """Boxes from the network's (h, w) to the original's, clipped to it; empty ones are dropped, masks pasted."""
    (h, w), (height, width) = size, original
    scale = detection["boxes"].new_tensor([width / w, height / h] * 2)
    limit = detection["boxes"].new_tensor([width, height] * 2)
    boxes = torch.minimum((detection["boxes"] * scale).clamp(min=0), limit)
    keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    kept: dict[str, Any] = {
        "boxes": boxes[keep],
        "scores": detection["scores"][keep],
        "labels": detection["labels"][keep],
    }
    if "masks" in detection:
        kept["masks"] = paste(detection["masks"][keep], boxes[keep], original)
    return kept


def build_detector(cfg: CfgNode, device: str = "cpu") -> Detector:
    """The detector that `cfg` describes, randomly initialised, on the CPU.

    Args:
        cfg: a config that `transfer.config.support.check` has passed, with the kinds of norm that run
            (see `transfer.engines.base.resolve_norms`).
        device: where it will run (torch's SyncBatchNorm needs a GPU).
    """
    m = cfg.MODEL
    norm = norm_layer(m.RESNETS.NORM, device)
    fpn_norm = norm_layer(m.FPN.NORM, device) if m.FPN.NORM else None
    trunk = build_trunk(m.RESNETS, norm)
    backbone = build_backbone(cfg, trunk, norm, fpn_norm)
    return Detector(backbone, _rpn(cfg, backbone), _roi_heads(cfg, backbone, trunk, norm), m.PIXEL_MEAN, m.PIXEL_STD)


def _rpn(cfg: CfgNode, backbone: Backbone) -> RPN:
    m = cfg.MODEL
    strides = {name: backbone.strides[name] for name in m.RPN.IN_FEATURES}
    sizes, ratios = m.ANCHOR_GENERATOR.SIZES, m.ANCHOR_GENERATOR.ASPECT_RATIOS
    anchors = Anchors(sizes, ratios, list(strides.values()), m.ANCHOR_GENERATOR.OFFSET)
    (per_location,) = set(anchors.num_anchors_per_location())
    (channels,) = {backbone.channels[name] for name in strides}
    return RPN(
        anchors,
        RPNHead(channels, per_location),
        **iou_thresholds(m.RPN.IOU_THRESHOLDS),
        in_features=tuple(strides),
        batch_size_per_image=m.RPN.BATCH_SIZE_PER_IMAGE,
        positive_fraction=m.RPN.POSITIVE_FRACTION,
        pre_nms_top_n={"training": m.RPN.PRE_NMS_TOPK_TRAIN, "testing": m.RPN.PRE_NMS_TOPK_TEST},
        post_nms_top_n={"training": m.RPN.POST_NMS_TOPK_TRAIN, "testing": m.RPN.POST_NMS_TOPK_TEST},
        nms_thresh=m.RPN.NMS_THRESH,
        min_box_size=m.PROPOSAL_GENERATOR.MIN_SIZE,
        smooth_l1_beta=m.RPN.SMOOTH_L1_BETA,
        box_weights=m.RPN.BBOX_REG_WEIGHTS,
        loss_weights=(m.RPN.LOSS_WEIGHT, m.RPN.BBOX_REG_LOSS_WEIGHT * m.RPN.LOSS_WEIGHT),
    )


def _roi_heads(cfg: CfgNode, backbone: Backbone, trunk: resnet.ResNet, norm: Callable[[int], nn.Module]) -> Heads:
    m, box, mask = cfg.MODEL, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    strides = {name: backbone.strides[name] for name in m.ROI_HEADS.IN_FEATURES}
    (channels,) = {backbone.channels[name] for name in strides}
    classes = m.ROI_HEADS.NUM_CLASSES
    box_head: Res5BoxHead | HiddenBoxHead
    mask_pool = None
    if m.ROI_HEADS.NAME == "StandardROIHeads":
        box_head = HiddenBoxHead(channels * box.POOLER_RESOLUTION**2, box.FC_DIM, box.NUM_FC)
        if m.MASK_ON:
            mask_pool = AlignedRoIPool(strides, mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO)
    else:
        extra_norm = norm if m.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm" else None
        box_head = Res5BoxHead(trunk.layer4, trunk.inplanes, extra_norm)
        channels = trunk.inplanes
    return Heads(
        AlignedRoIPool(strides, box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO),
        box_head,
        box_predictor(box_head.out_channels, classes),
        **iou_thresholds(m.ROI_HEADS.IOU_THRESHOLDS),
        batch_size_per_image=m.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        positive_fraction=m.ROI_HEADS.POSITIVE_FRACTION,
        bbox_reg_weights=tuple(box.BBOX_REG_WEIGHTS),
        score_thresh=m.ROI_HEADS.SCORE_THRESH_TEST,
        nms_thresh=m.ROI_HEADS.NMS_THRESH_TEST,
        detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        mask_roi_pool=mask_pool,
        mask_head=MaskHead(channels, mask.CONV_DIM, mask.NUM_CONV, classes) if m.MASK_ON else None,
        num_classes=classes,
        smooth_l1_beta=box.SMOOTH_L1_BETA,
        box_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        append_gt=m.ROI_HEADS.PROPOSAL_APPEND_GT,
    )
