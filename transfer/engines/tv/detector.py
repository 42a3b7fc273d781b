"""Faster R-CNN R50-C4 assembled from its parts; images in, losses or detections out.

Shape shorthand: N images; (h, w) size of an image as the network sees it; (H, W) the same padded to the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead

from transfer.engines.tv.backbone import STRIDE, C4Backbone, Res5BoxHead, build_trunk
from transfer.engines.tv.norm import norm_layer
from transfer.engines.tv.roi_heads import AlignedRoIPool, BoxHeads, box_predictor, iou_thresholds
from transfer.engines.tv.rpn import RPN, Anchors


class Detector(nn.Module):
    """A two-stage detector over batches of dicts, the way Detectron2's models are called.

    In training `forward(batch)` takes dicts with "image" (uint8 (3, h, w), channel order of the config), "boxes"
    ((M, 4) float XYXY) and "labels" ((M,) int64 in [0, K)), and returns a dict of losses. In evaluation it takes
    "image" plus "height" and "width" of the original and returns a dict of boxes (XYXY, original pixels), scores and
    labels per image, best first.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, backbone: nn.Module, rpn: nn.Module, roi_heads: nn.Module, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        images = self.preprocess([sample["image"] for sample in batch])
        targets = None
        if self.training:
            device = self.pixel_mean.device
            targets = [{k: sample[k].to(device, non_blocking=True) for k in ("boxes", "labels")} for sample in batch]
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
        """Normalises by PIXEL_MEAN and PIXEL_STD (range 0..255) and pads with zeros at the right and the bottom."""
        normalised = [(image.to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for image in images]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in normalised]
        H, W = max(h for h, _ in sizes), max(w for _, w in sizes)
        batch = normalised[0].new_zeros((len(normalised), 3, H, W))
        for slot, image, (h, w) in zip(batch, normalised, sizes, strict=True):
            slot[:, :h, :w].copy_(image)
        return ImageList(batch, sizes)


def rescale(detection: dict[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> dict[str, Tensor]:
    """Boxes from the network's (h, w) to the original's, clipped to it; empty ones are dropped."""
    (h, w), (height, width) = size, original
    scale = detection["boxes"].new_tensor([width / w, height / h] * 2)
    limit = detection["boxes"].new_tensor([width, height] * 2)
    boxes = torch.minimum((detection["boxes"] * scale).clamp(min=0), limit)
    keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    return {"boxes": boxes[keep], "scores": detection["scores"][keep], "labels": detection["labels"][keep]}


def build_detector(cfg: CfgNode, norm: str, device: str) -> Detector:
    """The detector that `cfg` describes, randomly initialised, on the CPU.

    Args:
        cfg: a config that `transfer.config.support.check` has passed.
        norm: the kind of batch norm that runs (see `transfer.engines.base.resolve_norm`).
        device: where it will run (torch's SyncBatchNorm needs a GPU).
    """
    m = cfg.MODEL
    layer = norm_layer(norm, device)
    trunk = build_trunk(m.RESNETS, layer)
    backbone = C4Backbone(trunk, m.BACKBONE.FREEZE_AT)
    extra_norm = layer if m.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm" else None
    box_head = Res5BoxHead(trunk.layer4, trunk.inplanes, extra_norm)
    anchors = Anchors(m.ANCHOR_GENERATOR.SIZES, m.ANCHOR_GENERATOR.ASPECT_RATIOS, [STRIDE], m.ANCHOR_GENERATOR.OFFSET)
    rpn = RPN(
        anchors,
        RPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0]),
        **iou_thresholds(m.RPN.IOU_THRESHOLDS),
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
    roi_heads = BoxHeads(
        AlignedRoIPool(m.ROI_BOX_HEAD.POOLER_RESOLUTION, STRIDE, m.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO),
        box_head,
        box_predictor(box_head.out_channels, m.ROI_HEADS.NUM_CLASSES),
        **iou_thresholds(m.ROI_HEADS.IOU_THRESHOLDS),
        batch_size_per_image=m.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        positive_fraction=m.ROI_HEADS.POSITIVE_FRACTION,
        bbox_reg_weights=tuple(m.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
        score_thresh=m.ROI_HEADS.SCORE_THRESH_TEST,
        nms_thresh=m.ROI_HEADS.NMS_THRESH_TEST,
        detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        num_classes=m.ROI_HEADS.NUM_CLASSES,
        smooth_l1_beta=m.ROI_BOX_HEAD.SMOOTH_L1_BETA,
        box_loss_weight=m.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT,
        append_gt=m.ROI_HEADS.PROPOSAL_APPEND_GT,
    )
    return Detector(backbone, rpn, roi_heads, m.PIXEL_MEAN, m.PIXEL_STD)
