"""Changes torchvision's region proposal network in the details in which Detectron2 differs.

Anchors are not rounded, are ordered size-major, and sit on a fixed stride; proposals keep logits, and only empty boxes
are dropped; both losses are sums divided by (anchors per image x images), and the box loss is (smooth) L1.

Shape shorthand: N images, A anchors per location, M ground-truth boxes. Boxes are XYXY in pixels of the network input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image

from transfer.engines.tv.matching import BoxCoder, Matcher, Sampler


class Anchors(AnchorGenerator):
    """Generates anchors of exact sizes, on strides that do not depend on the padded batch's size."""

    cell_anchors: list[Tensor]

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float,
    ):
        """
        Args:
            sizes, aspect_ratios: one list per feature map, or a single list for all.
            strides: stride of each feature map in pixels.
            offset: centre of the first anchor, in strides from the image's corner.
        """
        self.strides = tuple(strides)
        self.offset = offset
        levels = len(self.strides)
        super().__init__(
            tuple(tuple(s) for s in (sizes if len(sizes) == levels else list(sizes) * levels)),
            tuple(tuple(r) for r in (aspect_ratios if len(aspect_ratios) == levels else list(aspect_ratios) * levels)),
        )

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> Tensor:
        """Returns (len(scales) * len(aspect_ratios), 4) boxes around the origin; a ratio is height / width."""
        rows = []
        for size in scales:
            for ratio in aspect_ratios:
                w = math.sqrt(size * size / ratio)
                h = ratio * w
                rows.append([-w / 2, -h / 2, w / 2, h / 2])
        return torch.tensor(rows, dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Returns one (sum over maps of H*W*A, 4) tensor per image, the same one: a batch's images share anchors."""
        anchors = torch.cat(self.per_level(feature_maps))
        return [anchors] * len(image_list.image_sizes)

    def per_level(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """Returns the anchors of each map, (H*W*A, 4)."""
        device = feature_maps[0].device
        if self.cell_anchors[0].device != device:
            self.cell_anchors = [cell.to(device) for cell in self.cell_anchors]  # once, not in every step
        per_level = []
        for feature, stride, cell in zip(feature_maps, self.strides, self.cell_anchors, strict=True):
            h, w = feature.shape[-2:]
            shift = self.offset * stride
            xs = torch.arange(shift, w * stride, step=stride, dtype=torch.float32, device=device)
            ys = torch.arange(shift, h * stride, step=stride, dtype=torch.float32, device=device)
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
            per_level.append((shifts + cell.reshape(1, -1, 4)).reshape(-1, 4))
        return per_level


class RPN(RegionProposalNetwork):
    """Proposes regions (Faster R-CNN, section 3.1) with Detectron2's proposals, losses and normalisers."""

    box_coder: BoxCoder
    proposal_matcher: Matcher
    fg_bg_sampler: Sampler

    def __init__(
        self,
        *args: object,
        in_features: Sequence[str],
        min_box_size: float,
        smooth_l1_beta: float,
        box_weights: Sequence[float],
        loss_weights: tuple[float, float],
        **kwargs: object,
    ):
        """
        Args:
            in_features: names of the feature maps that it looks at, finest first.
            min_box_size: size in pixels that a proposal's width and height must exceed.
            smooth_l1_beta: difference at which the box loss turns from L2 to L1; 0 gives L1 throughout.
            box_weights: weights of (dx, dy, dw, dh).
            loss_weights: weights of the objectness loss and of the box loss.
        """
        super().__init__(*args, **kwargs)
        self.in_features = tuple(in_features)
        self.min_size = min_box_size
        self.smooth_l1_beta = smooth_l1_beta
        self.box_coder = BoxCoder(tuple(box_weights))
        matcher, sampler = self.proposal_matcher, self.fg_bg_sampler
        self.proposal_matcher = Matcher(matcher.high_threshold, matcher.low_threshold, allow_low_quality_matches=True)
        self.fg_bg_sampler = Sampler(sampler.batch_size_per_image, sampler.positive_fraction)
        self.loss_weights = loss_weights

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Any]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Returns each image's proposals, best first, and in training the losses `loss_rpn_cls` and `loss_rpn_loc`."""
        maps = [features[name] for name in self.in_features]
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        per_level = [level[0].numel() for level in logits]
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        losses: dict[str, Tensor] = {}
        if self.training:
            assert targets is not None
            labels, matched = self.assign_targets_to_anchors(anchors, targets)
            cls, loc = self.compute_loss(logits, deltas, labels, self.box_coder.encode(matched, anchors))
            losses = {"loss_rpn_cls": cls * self.loss_weights[0], "loss_rpn_loc": loc * self.loss_weights[1]}
        with torch.no_grad():
            boxes = self.box_coder.decode(deltas.detach().float(), anchors).view(len(anchors), -1, 4)
            proposals, _ = self.filter_proposals(boxes, logits, images.image_sizes, per_level)
        return proposals, losses

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Takes the best `pre_nms_top_n` per level, clips them, drops empty ones and runs NMS per level.

        The best `post_nms_top_n` of each image remain.

        Args:
            proposals: (N, sum H*W*A, 4).
            objectness: logits of the same locations.

        Raises:
            FloatingPointError: a prediction is not finite while training.
        """
        logits = objectness.detach().reshape(len(image_shapes), -1)
        level_of = torch.cat([torch.full((n,), i, device=logits.device) for i, n in enumerate(num_anchors_per_level)])
        top = self._get_top_n_idx(logits, num_anchors_per_level)  # N x top
        rows = torch.arange(len(top), device=top.device)[:, None]
        boxes_in, scores_in = proposals[rows, top], logits[rows, top]
        finite = torch.isfinite(boxes_in).all(dim=2) & torch.isfinite(scores_in)
        if self.training and not finite.all():
            raise FloatingPointError("the RPN predicts Inf or NaN: training has diverged; lower SOLVER.BASE_LR")
        boxes_out, scores_out = [], []
        for image, shape in enumerate(image_shapes):
            boxes = clip_boxes_to_image(boxes_in[image], shape)
            large = ((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(dim=1)
            (keep,) = torch.where(large & finite[image])
            boxes, scores, levels = boxes[keep], scores_in[image][keep], level_of[top[image]][keep]
            keep = batched_nms(boxes, scores, levels, self.nms_thresh)[: self.post_nms_top_n()]
            boxes_out.append(boxes[keep])
            scores_out.append(scores[keep])
        return boxes_out, scores_out

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns objectness and box loss over sampled anchors, each a sum divided by (anchors per image x N)."""
        drawn = [self.fg_bg_sampler.draw(label) for label in labels]
        starts = range(0, len(labels) * len(labels[0]), len(labels[0]))
        positive, negative = (
            torch.cat([found + start for found, start in zip(side, starts, strict=True)])
            for side in zip(*drawn, strict=True)
        )
        sampled, order = torch.cat([positive, negative]).sort()  # as the anchors stand
        wanted = objectness.new_zeros(len(sampled))
        wanted[: len(positive)] = 1
        normaliser = self.fg_bg_sampler.batch_size_per_image * len(labels)
        loc = box_loss(pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], self.smooth_l1_beta)
        cls = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], wanted[order], reduction="sum")
        return cls / normaliser, loc / normaliser


def box_loss(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """Returns the sum of smooth L1 over all coordinates; beta 0 gives L1. (..., 4), (..., 4) -> scalar."""
    if beta < 1e-5:
        return F.l1_loss(predicted, target, reduction="sum")
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="sum")
