"""RoIAlign on one map and on a pyramid against a naive loop, and the level of an RoI by FPN's equation 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.transfer.engines.tv.test_matching import boxes
from transfer.engines.tv.roi_heads import AlignedRoIPool


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def naive_align(feature: np.ndarray, box: list[float], stride: int, side: int, samples: int) -> np.ndarray:
    """(C, S, S): means of bilinear samples; pixel i of the map has its centre at (i + 0.5) * stride."""
    _, height, width = feature.shape
    x0, y0, x1, y1 = (v / stride - 0.5 for v in box)
    out = np.zeros((len(feature), side, side))
    for row in range(side):
        for column in range(side):
            for i in range(samples):
                for j in range(samples):
                    y = y0 + (y1 - y0) / side * (row + (i + 0.5) / samples)
                    x = x0 + (x1 - x0) / side * (column + (j + 0.5) / samples)
                    if -1 <= y <= height and -1 <= x <= width:
                        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                        top, left = min(int(y), height - 2), min(int(x), width - 2)
                        weights = np.outer([1 - y + top, y - top], [1 - x + left, x - left])
                        patch = feature[:, top : top + 2, left : left + 2]
                        out[:, row, column] += (patch * weights).sum(axis=(1, 2)) / samples**2
    return out


def naive_level(box: list[float]) -> int:
    """FPN, equation 1, with k0 = 4 and the levels 2 to 5."""
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    return min(max(math.floor(4 + math.log2(side / 224)), 2), 5) if side > 0 else 2


STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ([0, 0, 224, 224], 4), ([5, 9, 228.9, 232.9], 3), ([0, 0, 112, 448], 4), ([0, 0, 112, 112], 3),
        ([0, 0, 111.9, 112], 2), ([0, 0, 448, 448], 5), ([0, 0, 5000, 4000], 5), ([0, 0, 1, 1], 2), ([7, 7, 7, 7], 2),
    ],
)  # fmt: skip
def test_an_roi_goes_to_the_level_of_its_size(box: list[float], level: int) -> None:
    found = AlignedRoIPool(STRIDES, 7, 0)._levels(torch.tensor([box], dtype=torch.float32))
    assert found.tolist() == [level - 2] == [naive_level(box) - 2]


def test_pooling_from_a_pyramid_against_a_loop() -> None:
    """Of two images with RoIs of all levels in a mixed order, each in its place."""
    features = {name: torch.randn(2, 3, 512 // stride, 512 // stride) for name, stride in STRIDES.items()}
    rois = [boxes(6, 1), torch.tensor([[0.0, 0, 500, 500], [3, 3, 60, 70], [100, 100, 350, 330], [30.5, 9, 160, 200]])]
    rois[0] *= torch.tensor([[1.0], [3], [2], [4], [0.3], [1]])
    pooled = AlignedRoIPool(STRIDES, 3, 2)(features, rois)
    assert pooled.shape == (10, 3, 3, 3)
    levels, at = set(), 0
    for image, of in enumerate(rois):
        for box in of.tolist():
            level = naive_level(box)
            levels.add(level)
            expected = naive_align(features[f"p{level}"][image].numpy(), box, 2**level, 3, 2)
            assert np.allclose(pooled[at], expected, atol=1e-4), box
            at += 1
    assert levels == {2, 3, 4, 5}


def test_one_map_takes_rois_of_every_size() -> None:
    features, rois = {"res4": torch.randn(1, 2, 20, 24), "res5": torch.zeros(1, 2, 10, 12)}, torch.tensor(
        [[0.0, 0, 384, 320], [17, 33, 20, 35], [-8, -3, 60, 90]])  # fmt: skip
    pooled = AlignedRoIPool({"res4": 16}, 4, 2)(features, [rois])
    for roi, got in zip(rois.tolist(), pooled, strict=True):
        assert np.allclose(got, naive_align(features["res4"][0].numpy(), roi, 16, 4, 2), atol=1e-4)


@pytest.mark.parametrize("strides", [{"p2": 4}, STRIDES])
def test_no_rois_pool_to_nothing(strides: dict[str, int]) -> None:
    features = {name: torch.zeros(1, 5, 16, 16) for name in STRIDES}
    assert AlignedRoIPool(strides, 7, 0)(features, [torch.zeros(0, 4)]).shape == (0, 5, 7, 7)
