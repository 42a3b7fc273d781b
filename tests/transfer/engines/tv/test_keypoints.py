"""The keypoint head's targets, loss and outputs against naive forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from transfer.engines.tv import keypoints
from transfer.engines.tv.detector import rescale
from transfer.engines.tv.heads import KeypointHead


def test_points_follow_resize_and_flip_and_vanish_outside():
    points = np.array([[[10.0, 20.0, 2.0], [30.0, 40.0, 1.0], [5.0, 5.0, 0.0], [101.0, 10.0, 2.0]]])
    out = keypoints.transform(points, (80, 100), (160, 50), None)
    assert out.dtype == np.float32 and out[0].tolist() == [[5, 40, 2], [15, 80, 1], [0, 0, 0], [0, 0, 0]]
    flipped = keypoints.transform(points, (80, 100), (160, 50), (1, 0, 2, 3))
    assert flipped[0].tolist() == [[35, 80, 1], [45, 40, 2], [0, 0, 0], [0, 0, 0]]
    edge = np.array([[[100.0, 80.0, 2.0], [0.0, 0.0, 2.0], [100.01, 5.0, 2.0], [-0.01, 5.0, 2.0]]])
    assert (keypoints.transform(edge, (80, 100), (80, 100), None)[0, :, 2] > 0).tolist() == [True, True, False, False]
    assert keypoints.transform(np.zeros((0, 4, 3)), (80, 100), (160, 50), (1, 0, 2, 3)).shape == (0, 4, 3)


def naive_cell(x, y, seen, box, side):
    """(index, valid) of one point, by the words of the docstring."""
    x0, y0, x1, y1 = box
    column = side - 1 if x == x1 else math.floor((x - x0) * side / (x1 - x0))
    row = side - 1 if y == y1 else math.floor((y - y0) * side / (y1 - y0))
    valid = seen > 0 and 0 <= row < side and 0 <= column < side
    return row * side + column if valid else 0, valid


def test_cells_and_insides_against_a_loop():
    rng = np.random.default_rng(0)
    boxes = torch.tensor(rng.integers(0, 20, (50, 4)), dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2] + 1
    points = torch.tensor(np.concatenate([rng.integers(0, 30, (50, 6, 2)), rng.integers(0, 3, (50, 6, 1))], 2)).double()
    cells, valid = keypoints.cells(points, boxes, 7)
    inside = keypoints.inside(points, boxes)
    some = 0
    for r, box in enumerate(boxes.tolist()):
        for k, (x, y, seen) in enumerate(points[r].tolist()):
            assert (cells[r, k].item(), valid[r, k].item()) == naive_cell(x, y, seen, box, 7)
            assert inside[r, k].item() == (box[0] <= x <= box[2] and box[1] <= y <= box[3] and seen > 0)
            some += valid[r, k].item()
    assert some > 20


def test_loss_against_a_loop():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 12, 12], [3, 3, 9, 20], [1, 2, 5, 7], [0, 0, 2, 2]], dtype=torch.float64)
    points = torch.rand(4, 3, 3, dtype=torch.float64) * 10
    points[..., 2] = torch.randint(0, 3, (4, 3))
    cells, valid = keypoints.cells(points, boxes, 6)
    assert 0 < valid.sum() < 12
    terms = [
        logits[r, k].flatten().logsumexp(0) - logits[r, k].flatten()[cells[r, k]]
        for r in range(4)
        for k in range(3)
        if valid[r, k]
    ]
    total = sum(terms)
    mean = keypoints.loss(logits, points, boxes, 2, weight=0.5)
    assert mean.item() == pytest.approx(0.5 * total.item() / len(terms), rel=1e-12)
    fixed = keypoints.loss(logits, points, boxes, 2, per_image=24.0)
    assert fixed.item() == pytest.approx(total.item() / 48, rel=1e-12)


@pytest.mark.parametrize("rois", [0, 2])
def test_without_a_labelled_point_the_loss_is_0_and_reaches_every_parameter(rois):
    head = KeypointHead(4, (8,), 3)
    boxes = torch.tensor([[0.0, 0, 4, 4]] * rois).reshape(-1, 4)
    loss = keypoints.loss(head(torch.randn(rois, 4, 14, 14)), torch.zeros(rois, 3, 3), boxes, 1)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_the_surest_pixel_is_found_where_it_was_put():
    """A sharp peak in the map of each point comes back within a cell of its place, with nearly all the probability."""
    boxes = torch.tensor([[10.0, 20.0, 66.0, 76.0], [0.0, 0.0, 28.0, 112.0], [5.5, 5.5, 6.0, 6.2]])
    logits = torch.full((3, 2, 56, 56), -20.0)
    logits[:, 0, 10, 30] = logits[:, 1, 55, 0] = 20.0
    found = keypoints.located(logits, boxes)
    assert found.shape == (3, 2, 3) and found[0, 0, :2].tolist() == [40.5, 30.5]
    cell = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1) / 56
    for i in range(2):
        assert (
            (found[i, 0, :2] - boxes[i, :2] - torch.tensor([30.5, 10.5]) * cell[i]).abs() <= cell[i].clamp(min=1)
        ).all()
    assert (found[0, :, 2] > 0.99).all() and torch.isfinite(found).all()
    assert keypoints.located(logits[:0], boxes[:0]).shape == (0, 2, 3)


def test_points_are_scaled_to_the_original_and_go_with_their_boxes():
    found = {
        "boxes": torch.tensor([[0.0, 0.0, 10.0, 20.0], [100.0, 5.0, 130.0, 9.0]]),
        "scores": torch.tensor([0.9, 0.7]),
        "labels": torch.tensor([0, 0]),
        "keypoints": torch.tensor([[[4.0, 10.0, 0.8]], [[50.0, 5.0, 0.1]]]),
    }
    out = rescale(found, (50, 100), (100, 50))
    assert torch.equal(out["keypoints"], torch.tensor([[[2.0, 20.0, 0.8]]]))
