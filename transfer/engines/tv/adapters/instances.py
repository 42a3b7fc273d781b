"""Runs Faster and Mask R-CNN on the torchvision engine: makes the config's detector, samples and detections."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.rpn import RPNHead

from transfer.config.support import DILATED_C5, FPN
from transfer.data.dataset import Dataset
from transfer.data.records import PackedRecords
from transfer.engines.data import with_objects
from transfer.engines.training_input import TrainingInput
from transfer.engines.tv import keypoints, mapper
from transfer.engines.tv.adapters.adapter import Adapter
from transfer.engines.tv.adapters.configured_trunk import configured_trunk
from transfer.engines.tv.backbone import Backbone, DilatedC5, Pyramid, Stages
from transfer.engines.tv.detector import Detector
from transfer.engines.tv.heads import HiddenBoxHead, KeypointHead, MaskHead, Res5BoxHead, box_predictor
from transfer.engines.tv.masks import Bitmaps, bitmap
from transfer.engines.tv.norm import norm_layer
from transfer.engines.tv.roi_heads import AlignedRoIPool, Heads, iou_thresholds
from transfer.engines.tv.rpn import RPN, Anchors
from transfer.engines.tv.serving.networks import Served, ServedDetector
from transfer.evaluation.predictions import ImageDetections


class InstancesAdapter(Adapter):
    """Handles boxes, and masks with MODEL.MASK_ON."""

    def build(self, cfg: CfgNode, device: str) -> Detector:
        return build_detector(cfg, device)

    def train_samples(self, cfg: CfgNode, datasets: Sequence[Dataset], seed: int) -> mapper.TrainSamples:
        chosen, i = self.chosen(cfg, datasets), cfg.INPUT
        return mapper.TrainSamples(
            PackedRecords.joined([d.records.select(which) for d, which in zip(datasets, chosen, strict=True)]),
            channel_order=i.FORMAT,
            short_edges=i.MIN_SIZE_TRAIN,
            sampling=i.MIN_SIZE_TRAIN_SAMPLING,
            max_size=i.MAX_SIZE_TRAIN,
            flip=i.RANDOM_FLIP == "horizontal",
            seed=seed,
            mask_format=i.MASK_FORMAT if cfg.MODEL.MASK_ON else None,
            flipped_keypoints=self.flipped_keypoints(datasets),
        )

    def chosen(self, cfg: CfgNode, datasets: Sequence[Dataset]) -> list[list[int]]:
        """Returns, per data set, the positions of the images that are trained on."""
        return with_objects(datasets, keep_empty=not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)

    def flipped_keypoints(self, datasets: Sequence[Dataset]) -> Sequence[int] | None:
        """Returns which keypoint stands at each place of a mirrored image's list; None if none are trained."""
        return None

    def test_samples(self, cfg: CfgNode, records: PackedRecords) -> mapper.TestSamples:
        return mapper.TestSamples(
            records,
            channel_order=cfg.INPUT.FORMAT,
            short_edge=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
        )

    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> ImageDetections:
        boxes, scores, labels = (output[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
        return ImageDetections(sample["image_id"], boxes, scores, labels, output.get("masks"))

    def served(self, cfg: CfgNode, model: nn.Module) -> Served:
        if not isinstance(model, Detector):
            return super().served(cfg, model)
        return ServedDetector(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        image = sample["image"].permute(1, 2, 0).numpy()
        size = image.shape[:2]
        masks, maps = sample.get("masks"), None
        if isinstance(masks, Bitmaps):
            maps = masks.maps.numpy()
        elif masks is not None:
            maps = np.array([bitmap(polygons, size) for polygons in masks.objects], dtype=bool).reshape(-1, *size)
        return TrainingInput(
            record["file_name"],
            image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image,
            sample["boxes"].numpy(),
            sample["labels"].numpy(),
            maps,
        )


def build_detector(cfg: CfgNode, device: str = "cpu") -> Detector:
    """Builds the detector that `cfg` describes, randomly initialised, on the CPU.

    Args:
        cfg: a config that `transfer.config.support.check` has passed, with the kinds of norm that run
            (see `transfer.engines.resolve.norms`).
        device: device on which it will run (torch's SyncBatchNorm needs a GPU).
    """
    m = cfg.MODEL
    norm = norm_layer(m.RESNETS.NORM, device)
    fpn_norm = norm_layer(m.FPN.NORM, device) if m.FPN.NORM else None
    r = m.RESNETS
    trunk = configured_trunk(cfg, device)
    stages = Stages(trunk, r.OUT_FEATURES, m.BACKBONE.FREEZE_AT)
    backbone: Backbone = stages
    if m.BACKBONE.NAME == FPN:
        backbone = Pyramid(stages, m.FPN.OUT_CHANNELS, fpn_norm)
    elif m.BACKBONE.NAME == DILATED_C5:
        backbone = DilatedC5(stages, r.RES5_REDUCED_CHANNELS, norm)
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
    mask_pool = keypoint_pool = keypoint_head = None
    if m.ROI_HEADS.NAME == "StandardROIHeads":
        box_head = HiddenBoxHead(channels * box.POOLER_RESOLUTION**2, box.FC_DIM, box.NUM_FC)
        if m.MASK_ON:
            mask_pool = AlignedRoIPool(strides, mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO)
        if m.KEYPOINT_ON:
            points = m.ROI_KEYPOINT_HEAD
            keypoint_pool = AlignedRoIPool(strides, points.POOLER_RESOLUTION, points.POOLER_SAMPLING_RATIO)
            keypoint_head = KeypointHead(channels, points.CONV_DIMS, points.NUM_KEYPOINTS)
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
        keypoint_roi_pool=keypoint_pool,
        keypoint_head=keypoint_head,
        keypoint_loss=keypoint_loss(cfg),
        num_classes=classes,
        smooth_l1_beta=box.SMOOTH_L1_BETA,
        box_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        append_gt=m.ROI_HEADS.PROPOSAL_APPEND_GT,
    )


def keypoint_loss(cfg: CfgNode) -> Callable[..., Tensor]:
    """Returns `keypoints.loss` with the config's weight and normaliser."""
    head, rois = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.MODEL.ROI_HEADS
    per_image = None
    if not head.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS:
        per_image = head.NUM_KEYPOINTS * rois.BATCH_SIZE_PER_IMAGE * rois.POSITIVE_FRACTION
    return functools.partial(keypoints.loss, weight=head.LOSS_WEIGHT, per_image=per_image)
