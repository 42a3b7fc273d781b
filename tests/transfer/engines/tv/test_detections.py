"""Detections and their masks against naive loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.transfer.engines.tv.small_heads import WEIGHTS, K, batch, heads, iou, shared_conv5
from tests.transfer.engines.tv.test_matching import boxes
from transfer.engines.tv.heads import MaskHead
from transfer.engines.tv.roi_heads import AlignedRoIPool, Heads


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def naive_detections(
    logits: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int], threshold: float, nms: float, most: int
) -> list[tuple[float, int, list[float]]]:
    """(score, class, box), best first; detections of one score stay in the order of RoIs and classes."""
    candidates = []
    for r, (x0, y0, x1, y1) in enumerate(proposals.tolist()):
        total = sum(math.exp(v) for v in logits[r].tolist())
        for c in range(K):
            score = math.exp(logits[r, c]) / total
            if score <= threshold:
                continue
            dx, dy, dw, dh = (v / w for v, w in zip(deltas[r, 4 * c : 4 * c + 4].tolist(), WEIGHTS, strict=True))
            w, h = (x1 - x0) * math.exp(min(dw, math.log(62.5))), (y1 - y0) * math.exp(min(dh, math.log(62.5)))
            x, y = (x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)
            corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            box = [min(max(v, 0), size[1 - i % 2]) for i, v in enumerate(corners)]
            candidates.append((score, c, box))
    kept: list[tuple[float, int, list[float]]] = []
    for score, c, box in sorted(candidates, key=lambda found: -found[0]):
        if not any(c == other and iou(box, rival) > nms for _, other, rival in kept):
            kept.append((score, c, box))
    return kept[:most]


def detected(of_heads: Heads, *inputs: Any) -> list[list[tuple[float, int, list[float]]]]:
    found = zip(*of_heads.postprocess_detections(*inputs), strict=True)
    return [list(zip(s.tolist(), c.tolist(), b.tolist(), strict=True)) for b, s, c in found]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert [c for _, c, _ in found] == [c for _, c, _ in expected]
    assert np.allclose([s for s, _, _ in found], [s for s, _, _ in expected], atol=1e-6)
    assert np.allclose([b for *_, b in found], [b for *_, b in expected], atol=1e-3)


@pytest.mark.parametrize("nms", [0.5, 0.3])
@pytest.mark.parametrize(("threshold", "most"), [(0.05, 100), (0.05, 10), (0.3, 100)])
def test_detections_against_a_loop(threshold: float, most: int, nms: float) -> None:
    """Of two images of different sizes; boxes of size changes beyond the limit (1000 / 16) are among them."""
    proposals = [boxes(40, 8), boxes(25, 9)]
    logits, deltas = torch.randn(65, K + 1) * 2, torch.randn(65, 4 * K) * 3
    deltas[5, 2::4] = 40.0
    of_heads, sizes = heads(score_thresh=threshold, nms_thresh=nms, detections_per_img=most), [(90, 110), (70, 120)]
    found = detected(of_heads, logits, deltas, proposals, sizes)
    expected = [
        naive_detections(logits[part], deltas[part], of, size, threshold, nms, most)
        for part, of, size in zip((slice(40), slice(40, 65)), proposals, sizes, strict=True)
    ]
    for ours, naive in zip(found, expected, strict=True):
        assert_same(ours, naive)
        assert len(naive) == most if most == 10 else len(naive) > 10


def test_detections_of_many_rois_against_a_loop() -> None:
    """torchvision suppresses many boxes class by class instead of moving classes apart."""
    proposals, logits, deltas = boxes(600, 10), torch.randn(600, K + 1) * 2, torch.randn(600, 4 * K)
    (found,) = detected(heads(), logits, deltas, [proposals], [(100, 100)])
    assert_same(found, naive_detections(logits, deltas, proposals, (100, 100), 0.05, 0.5, 100))
    assert len(found) == 100


def test_one_score_keeps_the_first_roi_and_classes_do_not_suppress_each_other() -> None:
    same = torch.tensor([[10.0, 10, 50, 50], [10, 10, 50, 51], [60, 60, 80, 80]])
    logits = torch.zeros(3, K + 1)
    (found,) = detected(heads(), logits, torch.zeros(3, 4 * K), [same], [(100, 100)])
    assert [(c, box) for _, c, box in found] == [(c, box) for box in same[[0, 2]].tolist() for c in range(K)]
    assert all(score == 0.25 for score, *_ in found)
    (none,) = detected(heads(score_thresh=0.25), logits, torch.zeros(3, 4 * K), [same], [(100, 100)])
    assert none == []  # the score must be above the threshold


def test_predictions_that_are_no_numbers_are_left_out() -> None:
    logits, deltas = torch.zeros(4, K + 1), torch.zeros(4, 4 * K)
    logits[0, 1], deltas[2, 4] = float("nan"), float("inf")
    proposals = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]])
    (found,) = detected(heads(), logits, deltas, [proposals], [(100, 100)])
    assert {tuple(box) for *_, box in found} == {(20, 20, 30, 30), (60, 60, 70, 70)} and len(found) == 2 * K


def test_images_without_proposals_have_no_detections_and_no_masks() -> None:
    of_heads, _ = shared_conv5()
    features, proposals, _ = batch()
    of_heads.score_thresh = 0.0
    found, losses = of_heads.eval()(features, [proposals[0], proposals[0][:0], proposals[2]], [(100, 112)] * 3)
    assert losses == {} and [len(f["boxes"]) > 0 for f in found] == [True, False, True]
    assert found[1]["masks"].shape == (0, 4, 4)


@pytest.mark.parametrize("shared", [True, False], ids=["C4", "FPN"])
def test_masks_are_the_predicted_classes_probabilities_in_the_predicted_boxes(shared: bool) -> None:
    if shared:
        of_heads, _ = shared_conv5()
    else:
        of_heads = heads(mask_roi_pool=AlignedRoIPool({"res4": 4}, 3, 2), mask_head=MaskHead(4, 6, 1, K))
    nn.init.normal_(of_heads.mask_head.predictor.weight)
    nn.init.normal_(of_heads.box_predictor.bbox_pred.weight, std=0.3)
    nn.init.normal_(of_heads.box_predictor.cls_score.weight)
    features, proposals, _ = batch()
    with torch.no_grad():
        found, _ = of_heads.eval()(features, proposals, [(100, 112)] * 3)
        for image, detection in enumerate(found):
            assert len({*detection["labels"].tolist()}) > 1
            own = {"res4": features["res4"][image : image + 1]}
            for box, label, mask in zip(detection["boxes"], detection["labels"], detection["masks"], strict=True):
                pooled = (of_heads.box_roi_pool if shared else of_heads.mask_roi_pool)(own, [box[None]])
                maps = of_heads.mask_head(of_heads.box_head.maps(pooled) if shared else pooled)
                assert torch.allclose(mask, 1 / (1 + torch.exp(-maps[0, label])), atol=1e-5)
