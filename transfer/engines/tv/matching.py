"""Replaces torchvision's matcher, sampler and box coder by versions that do not make the host wait for the GPU.

Results are equal to the last bit, random draws too (`tests/transfer/engines/tv/test_matching.py`). torchvision's own
versions ask the device for the positions of matches, draw a mask where indices are at hand, and copy the coder's
weights in each call.

Shape shorthand: M ground-truth boxes, A anchors or proposals of an image, S sampled ones. Boxes are XYXY in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import _utils


class Matcher(_utils.Matcher):
    """Assigns to each anchor an object by overlap."""

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Gives each object the anchors that overlap it most, all ties included, however small the overlap is.

        Args:
            matches: (A,) object of each anchor; changed in place.
            all_matches: (A,) the object that overlaps each anchor most.
            match_quality_matrix: (M, A) overlaps.
        """
        best = (match_quality_matrix == match_quality_matrix.amax(dim=1, keepdim=True)).any(dim=0)
        torch.where(best, all_matches, matches, out=matches)


class Sampler(_utils.BalancedPositiveNegativeSampler):
    """Draws a fixed number of anchors per image, with a share of positive ones."""

    def draw(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Draws one image's anchors: at most a share `positive_fraction` of positives, filled up with negatives.

        Args:
            labels: (A,) 1 or more is positive, 0 is negative, less is left out.

        Returns:
            Indices of positives and of negatives, ascending.
        """
        positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
        positives = min(len(positive), int(self.batch_size_per_image * self.positive_fraction))
        negatives = min(len(negative), self.batch_size_per_image - positives)
        chosen = [
            found[torch.randperm(len(found), device=found.device)[:count]].sort().values
            for found, count in ((positive, positives), (negative, negatives))
        ]
        return chosen[0], chosen[1]


class BoxCoder(_utils.BoxCoder):
    """Encodes boxes as differences to reference boxes, and decodes them (R-CNN, appendix C)."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Encodes (S, 4) objects relative to the (S, 4) boxes that they match as (S, 4) dx, dy, dw, dh."""
        width, height = (proposals[:, 2] - proposals[:, 0])[:, None], (proposals[:, 3] - proposals[:, 1])[:, None]
        x, y = proposals[:, :1] + 0.5 * width, proposals[:, 1:2] + 0.5 * height
        new_width = (reference_boxes[:, 2] - reference_boxes[:, 0])[:, None]
        new_height = (reference_boxes[:, 3] - reference_boxes[:, 1])[:, None]
        new_x, new_y = reference_boxes[:, :1] + 0.5 * new_width, reference_boxes[:, 1:2] + 0.5 * new_height
        wx, wy, ww, wh = self.weights
        return torch.cat(
            [
                wx * (new_x - x) / width,
                wy * (new_y - y) / height,
                ww * torch.log(new_width / width),
                wh * torch.log(new_height / height),
            ],
            dim=1,
        )

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Decodes (S, 4K) differences to (S, 4) boxes into (S, 4K) boxes, four numbers per class."""
        boxes = boxes.to(rel_codes.dtype)
        width, height = (boxes[:, 2] - boxes[:, 0])[:, None], (boxes[:, 3] - boxes[:, 1])[:, None]
        centre_x, centre_y = boxes[:, :1] + 0.5 * width, boxes[:, 1:2] + 0.5 * height
        dx, dy, dw, dh = (rel_codes[:, i::4] / weight for i, weight in enumerate(self.weights))
        x, y = dx * width + centre_x, dy * height + centre_y
        half_width = 0.5 * (torch.exp(dw.clamp(max=self.bbox_xform_clip)) * width)
        half_height = 0.5 * (torch.exp(dh.clamp(max=self.bbox_xform_clip)) * height)
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=2).flatten(1)
