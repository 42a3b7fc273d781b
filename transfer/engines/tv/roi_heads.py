"""Changes torchvision's RoI heads in the details in which Detectron2 differs.

Background is the last class; RoIAlign is aligned (half-pixel) and picks levels by FPN's equation 1; the box loss is
(smooth) L1 over all sampled RoIs; low scores are cut by `score > threshold` alone; a head sees RoIs in sampling order;
masks share conv5 with the boxes where there is no pyramid.

Shape shorthand: R RoIs of all images, K foreground classes, P pooled resolution. Boxes are XYXY in pixels of the
network input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from transfer.engines.tv import keypoints
from transfer.engines.tv.heads import mask_loss
from transfer.engines.tv.matching import BoxCoder, Sampler
from transfer.engines.tv.rpn import box_loss


class AlignedRoIPool(nn.Module):
    """Applies RoIAlign with half-pixel correction (Detectron2's ROIAlignV2) to the feature map that fits each RoI.

    With several maps, an RoI with a side of 224 pixels goes to the map of stride 16, one of 112 pixels to stride 8, and
    so on (FPN, equation 1).

    Shapes: {name: (N, C, h, w)}, N x (Ri, 4) boxes -> (R, C, P, P).
    """

    def __init__(self, strides: Mapping[str, int], output_size: int, sampling_ratio: int):
        """
        Args:
            strides: strides of the feature maps to pool from, by name, finest first.
            sampling_ratio: samples per bin and axis; 0 for as many as the bin has pixels.
        """
        super().__init__()
        self.strides, self.output_size, self.sampling_ratio = dict(strides), output_size, sampling_ratio

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        images = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        rois = torch.cat([images, torch.cat(boxes)], dim=1)  # R x 5
        if len(self.strides) == 1:
            ((name, stride),) = self.strides.items()
            return self._pool(features[name], rois, stride)
        levels = self._levels(rois[:, 1:])
        size = (len(rois), features[next(iter(self.strides))].shape[1], self.output_size, self.output_size)
        pooled = features[next(iter(self.strides))].new_zeros(size)
        counts = torch.stack([(levels == level).sum() for level in range(len(self.strides))]).tolist()
        by_level = levels.argsort(stable=True).split(counts)
        for here, (name, stride) in zip(by_level, self.strides.items(), strict=True):
            pooled = pooled.index_put((here,), self._pool(features[name], rois[here], stride))
        return pooled

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        rois = rois.to(feature.dtype)  # boxes are float32, whatever the network computes in
        return roi_align(feature, rois, self.output_size, 1.0 / stride, self.sampling_ratio, aligned=True)

    def _levels(self, boxes: Tensor) -> Tensor:
        """Returns which feature map each RoI is pooled from: (R, 4) -> (R,)."""
        first, last = (int(math.log2(stride)) for stride in (min(self.strides.values()), max(self.strides.values())))
        side = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        return torch.floor(4 + torch.log2(side / 224 + 1e-8)).clamp(first, last).long() - first


class Heads(RoIHeads):
    """Samples RoIs, classifies them and refines their boxes (Fast R-CNN), segments them or finds points (Mask R-CNN).

    The masks of the C4 detectors share conv5 with the boxes: `mask_roi_pool` is None, and the mask head gets the box
    head's maps. With a pyramid, RoIs are pooled separately for masks. For keypoints they always are.
    """

    box_coder: BoxCoder
    fg_bg_sampler: Sampler

    def __init__(
        self,
        *args: object,
        num_classes: int,
        smooth_l1_beta: float,
        box_loss_weight: float,
        append_gt: bool,
        keypoint_loss: Callable[[Tensor, Tensor, Tensor, int], Tensor] = keypoints.loss,
        **kwargs: object,
    ):
        """
        Args:
            num_classes: K; label K is background.
            smooth_l1_beta: difference at which the box loss turns from L2 to L1; 0 gives L1 throughout.
            append_gt: whether ground-truth boxes join the proposals in training.
            keypoint_loss: see `keypoints.loss`.
        """
        super().__init__(*args, **kwargs)
        self.box_coder = BoxCoder(self.box_coder.weights)
        self.fg_bg_sampler = Sampler(self.fg_bg_sampler.batch_size_per_image, self.fg_bg_sampler.positive_fraction)
        self.num_classes = num_classes
        self.smooth_l1_beta = smooth_l1_beta
        self.box_loss_weight = box_loss_weight
        self.append_gt = append_gt
        self.keypoint_loss = keypoint_loss

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Returns losses by Detectron2's names in training, else per image boxes, scores, labels (masks, keypoints).

        Masks are probabilities, (Ri, S, S), of the predicted class inside the predicted box. Keypoints are (Ri, k, 3):
        x, y, score.
        """
        if self.training:
            assert targets is not None
            proposals, labels, matches, positives = self.sample(proposals, targets)
            shared, logits, deltas = self._box_branch(features, proposals)
            matched = [
                t["boxes"][m] if len(t["boxes"]) else p for t, m, p in zip(targets, matches, proposals, strict=True)
            ]
            starts = itertools.accumulate([0, *map(len, proposals)])
            foreground = torch.cat(
                [
                    torch.arange(start, start + count, device=logits.device)
                    for start, count in zip(starts, positives, strict=False)
                ]
            )
            losses = self.losses(
                logits, deltas, torch.cat(labels), torch.cat(proposals), torch.cat(matched), foreground
            )
            rois, of = ([x[:count] for x, count in zip(part, positives, strict=True)] for part in (proposals, matches))
            if self.mask_head is not None:
                losses["loss_mask"] = self._mask_loss(
                    features,
                    None if shared is None else shared[foreground],
                    rois,
                    of,
                    torch.cat(labels)[foreground],
                    targets,
                )
            if self.keypoint_head is not None:
                losses["loss_keypoint"] = self._keypoint_loss(features, rois, of, targets)
            return [], losses
        _, logits, deltas = self._box_branch(features, proposals)
        boxes, scores, classes = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        detections = [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, scores, classes, strict=True)]
        if self.mask_head is not None:
            for detection, masks in zip(detections, self._masks(features, boxes, classes), strict=True):
                detection["masks"] = masks
        if self.keypoint_head is not None:
            logits = self.keypoint_head(self.keypoint_roi_pool(features, boxes))
            points = keypoints.located(logits.float(), torch.cat(boxes)).split([len(b) for b in boxes])
            for detection, found in zip(detections, points, strict=True):
                detection["keypoints"] = found
        return detections, {}

    def _box_branch(self, features: dict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor | None, Tensor, Tensor]:
        """Returns the maps that the mask head shares (None if it has its own pooler), class logits and box deltas."""
        pooled = self.box_roi_pool(features, boxes)
        if self.mask_head is None or self.mask_roi_pool is not None:
            return None, *self.box_predictor(self.box_head(pooled))
        maps = self.box_head.maps(pooled)
        return maps, *self.box_predictor(maps.mean(dim=(2, 3)))

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        shared: Tensor | None,
        rois: list[Tensor],
        matches: list[Tensor],
        labels: Tensor,
        targets: list[dict[str, Any]],
    ) -> Tensor:
        """Returns the mask loss of the sampled foreground RoIs; all arguments are of these alone."""
        pooled = shared if shared is not None else self.mask_roi_pool(features, rois)
        logits = self.mask_head(pooled)
        wanted = [
            target["masks"].crop(match, boxes, logits.shape[-1])
            for target, match, boxes in zip(targets, matches, rois, strict=True)
        ]
        return mask_loss(logits, labels, torch.cat(wanted))

    def _masks(self, features: dict[str, Tensor], boxes: list[Tensor], classes: list[Tensor]) -> list[Tensor]:
        """Returns per image the mask of each detection's class, (Ri, S, S)."""
        if self.mask_roi_pool is not None:
            pooled = self.mask_roi_pool(features, boxes)
        else:
            pooled = self.box_head.maps(self.box_roi_pool(features, boxes))
        logits = self.mask_head(pooled)
        chosen = logits[torch.arange(len(logits), device=logits.device), torch.cat(classes)]
        return list(chosen.sigmoid().split([len(b) for b in boxes]))

    def _keypoint_loss(
        self, features: dict[str, Tensor], rois: list[Tensor], matches: list[Tensor], targets: list[dict[str, Any]]
    ) -> Tensor:
        """Returns the loss of those foreground RoIs (all arguments are of these) that contain a labelled point."""
        kept, points = [], []
        for boxes, match, target in zip(rois, matches, targets, strict=True):
            of = target["keypoints"][match]
            (inside,) = torch.where(keypoints.inside(of, boxes).any(dim=1))
            kept.append(boxes[inside])
            points.append(of[inside])
        logits = self.keypoint_head(self.keypoint_roi_pool(features, kept))
        return self.keypoint_loss(logits, torch.cat(points), torch.cat(kept), len(kept))

    @torch.no_grad()
    def sample(
        self, proposals: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]:
        """Draws a random sample of fixed size from each image's RoIs, the foreground first.

        Returns:
            Per image: (Ri, 4) RoIs, (Ri,) labels in [0, K], (Ri,) matched object (meaningless for background), and how
            many are foreground.
        """
        rois, labels, matched, positives = [], [], [], []
        for boxes, target in zip(proposals, targets, strict=True):
            gt, gt_labels = target["boxes"], target["labels"]
            if self.append_gt:
                boxes = torch.cat([boxes, gt])
            if len(gt) and len(boxes):
                match = self.proposal_matcher(self.box_similarity(gt, boxes))
                of = match.clamp(min=0)
                label = gt_labels[of] + 1  # the sampler wants background 0, foreground >= 1, ignored -1
                label[match == self.proposal_matcher.BELOW_LOW_THRESHOLD] = 0
                label[match == self.proposal_matcher.BETWEEN_THRESHOLDS] = -1
            else:
                label = of = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
            positive, negative = self.fg_bg_sampler.draw(label)
            positives.append(len(positive))
            chosen = torch.cat([positive, negative])
            rois.append(boxes[chosen])
            labels.append(torch.where(label[chosen] > 0, label[chosen] - 1, self.num_classes))
            matched.append(of[chosen])
        return rois, labels, matched, positives

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, rois: Tensor, matched: Tensor, foreground: Tensor
    ) -> dict[str, Tensor]:
        """Returns the cross-entropy over all RoIs, and the foreground's box loss divided by the number of all RoIs.

        Shapes: (R, K+1), (R, 4K), (R,), (R, 4), (R, 4), and the indices of the foreground.
        """
        predicted = deltas.view(len(labels), self.num_classes, 4)[foreground, labels[foreground]]
        target = self.box_coder.encode_single(matched[foreground], rois[foreground])
        loc = box_loss(predicted, target, self.smooth_l1_beta) / max(len(labels), 1)
        # a batch without any RoI still has to reach every parameter
        cls = F.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0.0
        return {"loss_cls": cls, "loss_box_reg": loc * self.box_loss_weight}

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Returns each image's boxes, scores and classes: above threshold, NMS per class, best `detections_per_img`."""
        counts = [len(p) for p in proposals]
        boxes_all = self.box_coder.decode_single(box_regression.float(), torch.cat(proposals)).split(counts)
        scores_all = F.softmax(class_logits, dim=-1).split(counts)
        out: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(boxes_all, scores_all, image_shapes, strict=True):
            finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
            above = (scores[:, :-1] > self.score_thresh) & finite[:, None]
            rows, classes = torch.where(above)
            boxes = clip_boxes_to_image(boxes.view(len(boxes), self.num_classes, 4)[rows, classes], shape)
            scores = scores[rows, classes]
            keep = batched_nms(boxes, scores, classes, self.nms_thresh)[: self.detections_per_img]
            for column, values in zip(out, (boxes[keep], scores[keep], classes[keep]), strict=True):
                column.append(values)
        return out


def iou_thresholds(thresholds: Sequence[float]) -> dict[str, float]:
    """Turns Detectron2's IOU_THRESHOLDS ([low, high], or one for both) into torchvision's two arguments."""
    return {"bg_iou_thresh": thresholds[0], "fg_iou_thresh": thresholds[-1]}
