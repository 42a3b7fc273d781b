"""torchvision's RoI heads with the details in which Detectron2 differs.

Overridden: background is the last class, RoIAlign is aligned (half-pixel), the box loss is (smooth) L1 over all sampled
RoIs, low scores are cut by `score > threshold` and nothing else, a head sees RoIs in sampling order.

Shape shorthand: R RoIs of all images, K foreground classes, P pooled resolution. Boxes are XYXY in pixels of the
network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from transfer.engines.tv.rpn import box_loss


class AlignedRoIPool(nn.Module):
    """RoIAlign with the half-pixel correction (Detectron2's ROIAlignV2) on one feature map.

    Shapes: {"res4": (N, C, h, w)}, N x (Ri, 4) boxes -> (R, C, P, P).
    """

    def __init__(self, output_size: int, stride: int, sampling_ratio: int):
        super().__init__()
        self.output_size, self.scale, self.sampling_ratio = output_size, 1.0 / stride, sampling_ratio

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        (feature,) = features.values()
        return roi_align(feature, boxes, self.output_size, self.scale, self.sampling_ratio, aligned=True)


def box_predictor(in_channels: int, num_classes: int) -> FastRCNNPredictor:
    """Class scores (K + 1, background last) and a box per foreground class, initialised as Detectron2's."""
    predictor = FastRCNNPredictor(in_channels, num_classes + 1)
    predictor.bbox_pred = nn.Linear(in_channels, num_classes * 4)
    nn.init.normal_(predictor.cls_score.weight, std=0.01)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    nn.init.zeros_(predictor.cls_score.bias)
    nn.init.zeros_(predictor.bbox_pred.bias)
    return predictor


class BoxHeads(RoIHeads):
    """Samples RoIs, classifies them and refines their boxes (Fast R-CNN)."""

    def __init__(
        self,
        *args: object,
        num_classes: int,
        smooth_l1_beta: float,
        box_loss_weight: float,
        append_gt: bool,
        **kwargs: object,
    ):
        """
        Args:
            num_classes: K; label K is background.
            smooth_l1_beta: where the box loss turns from L2 to L1; 0 = L1 throughout.
            append_gt: whether ground-truth boxes join the proposals in training.
        """
        super().__init__(*args, **kwargs)
        self.num_classes = num_classes
        self.smooth_l1_beta = smooth_l1_beta
        self.box_loss_weight = box_loss_weight
        self.append_gt = append_gt

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """In training the losses `loss_cls` and `loss_box_reg`; else detections (boxes, scores, labels)."""
        if self.training:
            assert targets is not None
            proposals, labels, matched = self.sample(proposals, targets)
            logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
            return [], self.losses(logits, deltas, torch.cat(labels), torch.cat(proposals), torch.cat(matched))
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        boxes, scores, classes = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        detections = [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, scores, classes, strict=True)]
        return detections, {}

    @torch.no_grad()
    def sample(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """A fixed-size random sample of RoIs per image.

        Returns:
            Per image: (Ri, 4) RoIs, (Ri,) labels in [0, K], (Ri, 4) matched ground truth (meaningless for background).
        """
        rois, labels, matched = [], [], []
        for boxes, target in zip(proposals, targets, strict=True):
            gt, gt_labels = target["boxes"], target["labels"]
            if self.append_gt:
                boxes = torch.cat([boxes, gt])
            if len(gt):
                match = self.proposal_matcher(self.box_similarity(gt, boxes))
                of = match.clamp(min=0)
                label = gt_labels[of] + 1  # the sampler wants background 0, foreground >= 1, ignored -1
                label[match == self.proposal_matcher.BELOW_LOW_THRESHOLD] = 0
                label[match == self.proposal_matcher.BETWEEN_THRESHOLDS] = -1
                gt_of = gt[of]
            else:
                label = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
                gt_of = boxes
            positive, negative = (mask[0].bool() for mask in self.fg_bg_sampler([label]))
            chosen = torch.cat([positive.nonzero()[:, 0], negative.nonzero()[:, 0]])
            rois.append(boxes[chosen])
            labels.append(torch.where(label[chosen] > 0, label[chosen] - 1, self.num_classes))
            matched.append(gt_of[chosen])
        return rois, labels, matched

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, rois: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over all RoIs, and the box loss of the foreground divided by the number of all RoIs.

        Shapes: (R, K+1), (R, 4K), (R,), (R, 4), (R, 4).
        """
        foreground = (labels < self.num_classes).nonzero()[:, 0]
        predicted = deltas.view(len(labels), self.num_classes, 4)[foreground, labels[foreground]]
        target = self.box_coder.encode_single(matched[foreground], rois[foreground])
        loc = box_loss(predicted, target, self.smooth_l1_beta) / max(len(labels), 1)
        # a batch without any RoI still has to reach every parameter
        cls = F.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0.0
        return {"loss_cls": cls, "loss_box_reg": loc * self.box_loss_weight}

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores, classes per image: score above threshold, NMS per class, best `detections_per_img`."""
        counts = [len(p) for p in proposals]
        boxes_all = self.box_coder.decode_single(box_regression, torch.cat(proposals)).split(counts)
        scores_all = F.softmax(class_logits, dim=-1).split(counts)
        out: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(boxes_all, scores_all, image_shapes, strict=True):
            finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
            boxes, scores = boxes[finite].view(-1, self.num_classes, 4), scores[finite][:, :-1]
            above = scores > self.score_thresh
            classes = above.nonzero()[:, 1]
            boxes, scores = clip_boxes_to_image(boxes[above], shape), scores[above]
            keep = batched_nms(boxes, scores, classes, self.nms_thresh)[: self.detections_per_img]
            for column, values in zip(out, (boxes[keep], scores[keep], classes[keep]), strict=True):
                column.append(values)
        return out


def iou_thresholds(thresholds: Sequence[float]) -> dict[str, float]:
    """Detectron2's IOU_THRESHOLDS ([low, high], or one for both) as torchvision's two arguments."""
    return {"bg_iou_thresh": thresholds[0], "fg_iou_thresh": thresholds[-1]}
