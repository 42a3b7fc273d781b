"""RoI heads in training against naive loops: which RoIs are sampled, and their losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.transfer.engines.tv.small_heads import K, batch, heads, iou, shared_conv5, target
from tests.transfer.engines.tv.test_matching import boxes
from transfer.engines.tv.heads import MaskHead
from transfer.engines.tv.roi_heads import AlignedRoIPool


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def scene(negatives: int, positives: int) -> tuple[Tensor, dict[str, Any]]:
    """Proposals in a mixed order: some over one of two objects (IoU 0.82 and more), the others far from both."""
    gt = torch.tensor([[10.0, 10, 30, 40], [50, 20, 90, 60]])
    near = gt[torch.arange(positives) % 2] + torch.rand(positives, 4) * 2 - 1
    far = boxes(negatives, 2) + 200
    order = torch.randperm(negatives + positives)
    return torch.cat([near, far])[order], target(gt, [2, 0])


@pytest.mark.parametrize(
    ("negatives", "positives", "expected"),
    [(90, 30, (8, 24)), (90, 3, (3, 29)), (90, 0, (0, 32)), (5, 30, (8, 5)), (2, 3, (3, 2)), (0, 0, (0, 0))],
    ids=["plenty", "few positives", "no positives", "few negatives", "few", "none"],
)
def test_a_sample_is_a_share_of_positives_filled_up_with_negatives(
    negatives: int, positives: int, expected: tuple[int, int]
) -> None:
    """A quarter of 32; too few negatives are not made up for by positives."""
    proposals, truth = scene(negatives, positives)
    of_heads = heads(batch_size_per_image=32, append_gt=False)
    (rois,), (labels,), (matched,), (count,) = of_heads.sample([proposals], [truth])
    assert (count, len(rois) - count) == expected
    rows = [proposals.tolist().index(roi) for roi in rois.tolist()]
    assert len(set(rows)) == len(rows)
    for i, (roi, label, match) in enumerate(zip(rois.tolist(), labels.tolist(), matched.tolist(), strict=True)):
        overlaps = [iou(gt, roi) for gt in truth["boxes"].tolist()]
        best = int(np.argmax(overlaps))
        if i < count:
            assert overlaps[best] >= 0.5 and match == best and label == truth["labels"][best]
        else:
            assert overlaps[best] < 0.5 and label == K


def test_every_proposal_is_drawn_now_and_then_and_a_seed_draws_the_same() -> None:
    proposals, truth = scene(30, 12)
    of_heads, drawn = heads(append_gt=False), np.zeros(42)
    for seed in range(60):
        torch.manual_seed(seed)
        (rois,), *_ = of_heads.sample([proposals], [truth])
        drawn[[proposals.tolist().index(roi) for roi in rois.tolist()]] += 1
        torch.manual_seed(seed)
        assert torch.equal(of_heads.sample([proposals], [truth])[0][0], rois)
    positive = np.array([max(iou(gt, p) for gt in truth["boxes"].tolist()) >= 0.5 for p in proposals.tolist()])
    assert drawn.min() > 0 and drawn.sum() == 60 * 16
    assert drawn[positive].sum() == 60 * 4 and abs(drawn[positive] - 20).max() < 20  # expected: 20 times each


@pytest.mark.parametrize("append", [True, False])
def test_objects_join_the_proposals_where_the_config_says_so(append: bool) -> None:
    proposals, truth = scene(20, 0)
    (rois,), (labels,), (matched,), (count,) = heads(append_gt=append).sample([proposals], [truth])
    assert count == (2 if append else 0)
    if append:
        assert rois[:2].tolist() == truth["boxes"].tolist() and labels[:2].tolist() == [2, 0]
        assert matched[:2].tolist() == [0, 1]


def test_overlaps_between_two_thresholds_are_never_sampled() -> None:
    gt = torch.tensor([[0.0, 0, 10, 10]])
    heights = torch.tensor([2.0, 2.9, 3.0, 4.0, 6.9, 7.0, 9.0])  # IoU: a tenth of these
    proposals = torch.stack([torch.zeros(7), torch.zeros(7), torch.full((7,), 10.0), heights], dim=1)
    of_heads = heads(thresholds=[0.3, 0.7], append_gt=False, positive_fraction=1.0)
    (rois,), (labels,), _, (count,) = of_heads.sample([proposals], [target(gt, [1])])
    assert rois[:count, 3].tolist() == [7, 9] and labels[:count].tolist() == [1, 1]
    assert torch.equal(rois[count:, 3], heights[:2]) and labels[count:].tolist() == [K, K]


def test_an_image_without_objects_gives_background_alone() -> None:
    proposals = boxes(40, 3)
    (rois,), (labels,), _, (count,) = heads().sample([proposals], [target(torch.zeros(0, 4), [])])
    assert len(rois) == 16 and count == 0 and (labels == K).all()


def naive_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, rois: Tensor, matched: Tensor, beta: float
) -> tuple[float, float]:
    """(classification, boxes), the definitions of Fast R-CNN in plain numbers."""
    cls = loc = 0.0
    for r, label in enumerate(labels.tolist()):
        scores = logits[r].tolist()
        cls -= math.log(math.exp(scores[label]) / sum(map(math.exp, scores)))
        if label == K:
            continue
        x0, y0, x1, y1 = rois[r].tolist()
        a0, b0, a1, b1 = matched[r].tolist()
        wanted = [
            10 * ((a0 + a1) / 2 - (x0 + x1) / 2) / (x1 - x0),
            10 * ((b0 + b1) / 2 - (y0 + y1) / 2) / (y1 - y0),
            5 * math.log((a1 - a0) / (x1 - x0)),
            5 * math.log((b1 - b0) / (y1 - y0)),
        ]
        for said, want in zip(deltas[r, 4 * label : 4 * label + 4].tolist(), wanted, strict=True):
            gap = abs(said - want)
            loc += 0.5 * gap**2 / beta if gap < beta else gap - 0.5 * beta
    return cls / len(labels), loc / len(labels)


@pytest.mark.parametrize(("beta", "weight"), [(0.0, 1.0), (1.0, 1.0), (0.11, 2.5)])
def test_losses_against_a_loop(beta: float, weight: float) -> None:
    """The box loss takes the true class's four numbers, and its mean is over all RoIs, the background too."""
    labels = torch.tensor([2, 0, 1, 2, K, K, K, K, K, K])
    rois, matched = boxes(10, 4), boxes(10, 5)
    logits, deltas = torch.randn(10, K + 1), torch.randn(10, 4 * K).requires_grad_()
    of_heads = heads(smooth_l1_beta=beta, box_loss_weight=weight)
    losses = of_heads.losses(logits, deltas, labels, rois, matched, torch.arange(4))
    cls, loc = naive_losses(logits, deltas.detach(), labels, rois, matched, beta)
    assert losses["loss_cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(weight * loc, rel=1e-5)
    losses["loss_box_reg"].backward()
    taught = (deltas.grad.view(10, K, 4) != 0).any(dim=2)
    assert taught.tolist() == [[c == label for c in range(K)] for label in labels.tolist()]


@pytest.mark.parametrize("rois", [0, 5])
def test_losses_without_foreground_or_rois_are_finite_and_reach_every_parameter(rois: int) -> None:
    of_heads = heads()
    logits, deltas = of_heads.box_predictor(of_heads.box_head(torch.randn(rois, 4, 2, 2)))
    background, none = torch.full((rois,), K), torch.zeros(0, dtype=torch.int64)
    losses = of_heads.losses(logits, deltas, background, boxes(rois, 6), boxes(rois, 7), none)
    assert losses["loss_box_reg"].item() == 0
    assert losses["loss_cls"].item() == pytest.approx(math.log(K + 1) if rois else 0, abs=0.2)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in of_heads.parameters())


def test_a_step_without_proposals_is_finite_and_reaches_every_parameter() -> None:
    """Objects need not join the proposals, and the RPN may have none left for an image, or for any."""
    of_heads, _ = shared_conv5()
    of_heads.append_gt = False
    features, proposals, truths = batch()
    for given in ([proposals[0], proposals[1], proposals[2][:0]], [p[:0] for p in proposals]):
        of_heads.zero_grad(set_to_none=True)
        _, losses = of_heads.train()(features, given, [(100, 112)] * 3, truths)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in of_heads.parameters())


@pytest.mark.parametrize("shared", [True, False], ids=["C4", "FPN"])
def test_a_training_step_of_several_images_is_the_loss_over_all_their_samples(shared: bool) -> None:
    """Labels, objects and masks stay with their RoIs; with C4 the masks' maps are those of the boxes' conv5."""
    if shared:
        of_heads, conv5 = shared_conv5()
    else:
        of_heads = heads(mask_roi_pool=AlignedRoIPool({"res4": 4}, 3, 2), mask_head=MaskHead(4, 6, 1, K))
    features, proposals, truths = batch()
    torch.manual_seed(1)
    detections, losses = of_heads.train()(features, proposals, [(100, 112)] * 3, truths)
    assert detections == [] and set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}

    torch.manual_seed(1)
    rois, labels, matches, positives = of_heads.sample(proposals, truths)
    assert positives[1] == 0 and min(positives[0], positives[2]) > 1
    if shared:
        assert conv5.calls == 1
    pooled = of_heads.box_roi_pool(features, rois)
    logits, deltas = of_heads.box_predictor(of_heads.box_head(pooled))
    matched = [torch.stack([t["boxes"][i] for i in m]) if len(t["boxes"]) else r
               for t, m, r in zip(truths, matches, rois, strict=True)]  # fmt: skip
    everything = torch.cat(labels), torch.cat(rois), torch.cat(matched)
    cls, loc = naive_losses(logits.detach(), deltas.detach(), *everything, beta=0.0)
    assert losses["loss_cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(loc, rel=1e-5)

    maps = of_heads.box_head.maps(pooled) if shared else of_heads.mask_roi_pool(features, rois)
    masks, at, terms = of_heads.mask_head(maps), 0, []
    for truth, of, match, label, count in zip(truths, rois, matches, labels, positives, strict=True):
        for i in range(count):
            wanted = truth["masks"].crop(match[i : i + 1], of[i : i + 1], masks.shape[-1])[0].float()
            said = masks[at + i, label[i]].sigmoid()
            terms.append(-(wanted * said.log() + (1 - wanted) * (1 - said).log()).mean().item())
        at += len(of)
    assert len(terms) == sum(positives)
    assert losses["loss_mask"].item() == pytest.approx(np.mean(terms), rel=1e-5)
    losses["loss_mask"].backward()
    assert not shared or conv5.conv.weight.grad.any()
