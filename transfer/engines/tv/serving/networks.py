"""Defines networks as they are served: one image of any size goes in, plain tensors in its pixels come out.

The learned parts are the trained network's own modules. The code around them does what its `forward` does in Python
with sizes and numbers of detections, in steps that tracers do not fix; results agree up to float32's rounding.

Shape shorthand: (H, W) the given image, R RoIs, N detections, k keypoints, S side of a mask. Boxes are XYXY in pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from transfer.engines.tv import mapper
from transfer.engines.tv.detector import Detector
from transfer.engines.tv.masks import bitmap
from transfer.engines.tv.roi_heads import AlignedRoIPool
from transfer.engines.tv.segmentor import Segmentor
from transfer.engines.tv.serving.resize import number, output_size, resized, shape, size_of, xyxy


class Served(nn.Module, ABC):
    """Turns (3, H, W) uint8 in the config's channel order into tensors, which `outputs` names in their order.

    Attributes:
        outputs: name of an output -> names of its axes, "" for an axis of fixed length.
        loops: whether the network loops over its detections one by one, which torch.export does not accept.
    """

    outputs: Mapping[str, tuple[str, ...]]
    loops = False

    def __init__(self, model: nn.Module, short_edge: int, max_size: int):
        """
        Args:
            model: the trained network, on the CPU.
            short_edge, max_size: size to which an image is resized (see `mapper.output_size`); short_edge 0 keeps it.
        """
        super().__init__()
        self.model: Any = model.eval()
        self.short_edge, self.max_size = short_edge, max_size

    def network_input(self, image: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
        """Resizes, normalises, pads; returns (1, 3, H', W') with sides of this multiple, and (2,) before padding."""
        pixels = image.float()
        if self.short_edge:
            pixels = resized(image, output_size(size_of(image), self.short_edge, self.max_size))
        size = size_of(pixels)
        pixels = (pixels - self.model.pixel_mean) / self.model.pixel_std
        if multiple > 1:
            missing = (size + multiple - 1) // multiple * multiple - size
            pixels = F.pad(pixels, [0, number(missing[1], 0), 0, number(missing[0], 0)])
        return pixels[None], size

    def expected(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what the trained network itself gives for an image, (H, W, 3) uint8, in the form of the outputs."""
        height, width = image.shape[:2]
        size = mapper.output_size(height, width, self.short_edge, self.max_size) if self.short_edge else (height, width)
        sample = {"image": mapper.to_tensor(mapper.resize(image, size)), "height": height, "width": width}
        with torch.inference_mode():
            return self.plain(self.model([sample])[0], (height, width))

    @abstractmethod
    def plain(self, output: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Turns the trained network's output for an image of this size into arrays by the names of `outputs`."""


class ServedSegmentor(Served):
    """Serves FCN-16s."""

    outputs: Mapping[str, tuple[str, ...]] = {"classes": ("height", "width")}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the likeliest class of each pixel, (H, W) int64."""
        model: Segmentor = self.model
        pixels, size = self.network_input(image, 1)
        head = model.sem_seg_head
        coarse = head.predictor(head.conv2(head.conv1(model.backbone(pixels)[model.feature])))
        logits = upsampled(coarse.float(), head.stride)[:, :, : number(size[0], 1), : number(size[1], 1)]
        given = (image.shape[1], image.shape[2])
        return (F.interpolate(logits, size=given, mode="bilinear", align_corners=False)[0].argmax(dim=0),)

    def plain(self, output: Tensor, size: tuple[int, int]) -> dict[str, np.ndarray]:
        return {"classes": output.argmax(dim=0).numpy()}


def upsampled(logits: Tensor, stride: int) -> Tensor:
    """Does what `segmentor.aligned_upsampling` does, but repeats the last value first, so that there are two values.

    (1, K, h, w) -> (1, K, h * stride, w * stride).
    """
    height, width = (side * stride + 1 for side in logits.shape[2:])
    wider = F.pad(logits, [0, 1, 0, 1], mode="replicate")
    return F.interpolate(wider, size=(height, width), mode="bilinear", align_corners=True)[:, :, :-1, :-1]


class ServedDetector(Served):
    """Serves Faster R-CNN, or Mask R-CNN with masks, keypoints or both."""

    def __init__(self, model: Detector, short_edge: int, max_size: int):
        super().__init__(model, short_edge, max_size)
        heads = model.roi_heads
        self.outputs = {"boxes": ("detections", ""), "scores": ("detections",), "labels": ("detections",)}
        if heads.mask_head is not None:
            self.outputs["masks"] = ("detections", "height", "width")
        if heads.keypoint_head is not None:
            self.outputs["keypoints"], self.loops = ("detections", "", ""), True

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns (N, 4) boxes, (N,) scores, (N,) labels, best first; (N, H, W) bool masks; (N, k, 3) keypoints."""
        heads = self.model.roi_heads
        pixels, size = self.network_input(image, self.model.backbone.multiple)
        features = self.model.backbone(pixels)
        boxes, scores, labels = self.detections(features, self.proposals(features, size), size)
        given = size_of(image)
        factor = (given.double() / size.double()).float().flip(0).repeat(2)
        original = torch.minimum((boxes * factor).clamp(min=0.0), xyxy(given))
        (keep,) = torch.where(((original[:, 2:] - original[:, :2]) > 0).all(dim=1))
        boxes, original, scores, labels = boxes[keep], original[keep], scores[keep], labels[keep]
        out = [original, scores, labels]
        if heads.mask_head is not None:
            out.append(pasted(self.masks(features, boxes, labels), original, given))
        if heads.keypoint_head is not None:
            logits = heads.keypoint_head(pooled(heads.keypoint_roi_pool, features, boxes))[:-1]
            points = located(logits.float(), boxes)
            out.append(torch.cat([points[:, :, :2] * factor[:2], points[:, :, 2:]], dim=2))
        return tuple(out)

    def proposals(self, features: Mapping[str, Tensor], size: Tensor) -> Tensor:
        """Returns (R, 4) proposals as `RPN.filter_proposals` does, level by level."""
        rpn = self.model.rpn
        maps = [features[name] for name in rpn.in_features]
        found, sure = [], []
        for logits, deltas, anchors in zip(*rpn.head(maps), rpn.anchor_generator.per_level(maps), strict=True):
            scores = logits[0].permute(1, 2, 0).flatten()
            deltas = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)
            top = best(scores, rpn.pre_nms_top_n())
            boxes, scores = rpn.box_coder.decode_single(deltas[top].float(), anchors[top]), scores[top]
            finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
            boxes = torch.minimum(boxes.clamp(min=0.0), xyxy(size))
            (keep,) = torch.where(((boxes[:, 2:] - boxes[:, :2]) > rpn.min_size).all(dim=1) & finite)
            boxes, scores = boxes[keep], scores[keep]
            keep = suppressed(boxes, scores, rpn.nms_thresh)
            found.append(boxes[keep])
            sure.append(scores[keep])
        return torch.cat(found)[best(torch.cat(sure), rpn.post_nms_top_n())]

    def detections(
        self, features: Mapping[str, Tensor], proposals: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes, scores and labels as `Heads.postprocess_detections` does.

        NMS per class is what torchvision does for up to 1000 boxes, where it moves the classes apart; for more boxes
        torchvision loops over the classes, which rounds no coordinates.
        """
        heads = self.model.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(pooled(heads.box_roi_pool, features, proposals)))
        scores = F.softmax(logits[:-1], dim=-1)
        boxes = heads.box_coder.decode_single(deltas[:-1].float(), proposals)
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        rows, labels = torch.where((scores[:, :-1] > heads.score_thresh) & finite[:, None])
        boxes, scores = boxes.unflatten(1, (-1, 4))[rows, labels], scores[rows, labels]
        boxes = torch.minimum(boxes.clamp(min=0.0), xyxy(size))
        keep = suppressed(apart(boxes, labels, heads.num_classes), scores, heads.nms_thresh)[: heads.detections_per_img]
        return boxes[keep], scores[keep], labels[keep]

    def masks(self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Returns (N, S, S) probabilities as `Heads._masks` does."""
        heads = self.model.roi_heads
        if heads.mask_roi_pool is not None:
            seen = pooled(heads.mask_roi_pool, features, boxes)
        else:
            seen = heads.box_head.maps(pooled(heads.box_roi_pool, features, boxes))
        logits = heads.mask_head(seen)[:-1]
        of = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, of)[:, 0].sigmoid()

    def plain(self, output: dict[str, Any], size: tuple[int, int]) -> dict[str, np.ndarray]:
        masks = np.array([bitmap(mask, size) for mask in output.get("masks", [])], dtype=bool).reshape(-1, *size)
        return {name: masks if name == "masks" else output[name].numpy() for name in self.outputs}


def best(scores: Tensor, count: int) -> Tensor:
    """Returns the places of the `count` highest scores, or of all if there are fewer, highest first. (n,) -> (m,)."""
    return scores.topk(number(torch.minimum(shape(scores)[0], torch.tensor(count)), 0)).indices


def apart(boxes: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Moves boxes so that those of different labels do not overlap: (n, 4), (n,) -> (n, 4).

    Classes are laid out along the diagonal, as in torchvision; more than 100 of them in a square, nearer to 0, where
    float32 rounds less: for 1203 classes in images of 1333 pixels to 0.004 pixels instead of 0.125.
    """
    side = math.ceil(math.sqrt(classes))
    at = [labels, labels] if classes <= 100 else [labels % side, labels // side]
    furthest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    return boxes + torch.stack([*at, *at], dim=1).to(boxes) * (furthest + 1)


def suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Runs `nms` with two extra boxes that overlap nothing, since torch.export assumes that it keeps at least two.

    The two are removed again. (R, 4), (R,) -> (m,): places, best first.
    """
    two = boxes.new_tensor([[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]])
    last = scores.new_full((2,), torch.finfo(scores.dtype).min)
    return nms(torch.cat([boxes, two]), torch.cat([scores, last]), threshold)[:-2]


def pooled(pool: AlignedRoIPool, features: Mapping[str, Tensor], boxes: Tensor) -> Tensor:
    """Runs `AlignedRoIPool.forward` on one image with an empty RoI at the end, so that no layer gets an empty batch.

    (R, 4) -> (R + 1, C, P, P).
    """
    boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])
    rois = F.pad(boxes, [1, 0])  # of image 0
    if len(pool.strides) == 1:
        ((name, stride),) = pool.strides.items()
        return pool._pool(features[name], rois, stride)
    levels = pool._levels(boxes)
    found, places = [], []
    for level, (name, stride) in enumerate(pool.strides.items()):
        (here,) = torch.where(levels == level)
        found.append(pool._pool(features[name], rois[here], stride))
        places.append(here)
    return torch.cat(found)[torch.cat(places).argsort()]


def pasted(masks: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
    """Does what `masks.paste` does, but gives bitmaps: the bilinear interpolation is a product along each axis.

    Shapes: (N, S, S) probabilities, (N, 4), (2,) H, W -> (N, H, W) bool.
    """
    side = masks.shape[-1]

    def weights(first: Tensor, last: Tensor, pixels: Tensor) -> Tensor:  # (N,), (N,), () -> (N, pixels, S)
        at = (torch.arange(number(pixels, 1)) + 0.5 - first[:, None]) / (last - first)[:, None] * side - 0.5
        return (1 - (at[:, :, None] - torch.arange(side)).abs()).clamp(min=0.0)

    ys, xs = weights(boxes[:, 1], boxes[:, 3], size[0]), weights(boxes[:, 0], boxes[:, 2], size[1])
    return torch.matmul(torch.matmul(ys, masks), xs.transpose(1, 2)) >= 0.5


@torch.jit.script_if_tracing  # a trace alone would unroll the loop
def located(logits: Tensor, boxes: Tensor) -> Tensor:
    """Computes `keypoints.located` in TorchScript. (N, k, S, S), (N, 4) -> (N, k, 3): x, y, score."""
    extents = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = extents.ceil()
    out = torch.zeros([0, logits.size(1), 3], dtype=logits.dtype, device=logits.device)
    for i in range(logits.size(0)):
        side = [int(pixels[i, 1]), int(pixels[i, 0])]
        fine = F.interpolate(logits[i][None], size=side, mode="bicubic", align_corners=False)[0].flatten(1)
        highest, place = fine.max(dim=1)
        place, width = place.long(), pixels[i, 0].long()  # typed: ONNX would divide float32, exact to 2^24
        at = torch.stack([place % width, place // width], dim=1)
        xy = (at + 0.5) * (extents[i] / pixels[i]) + boxes[i, :2]
        score = 1 / (logits[i].flatten(1) - highest[:, None]).exp().sum(dim=1)
        out = torch.cat([out, torch.cat([xy, score[:, None]], dim=1)[None]])
    return out
