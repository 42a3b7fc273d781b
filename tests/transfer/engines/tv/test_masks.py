"""Masks against naive loops: through augmentation, down to RoIs, and back up into the image."""

from __future__ import annotations

import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from transfer.engines.tv import masks
from transfer.engines.tv.masks import Bitmaps, Polygons


def box_polygon(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)


def star(rng: np.random.Generator, centre: tuple[float, float], radius: float, corners: int) -> np.ndarray:
    """A simple polygon around its centre, concave in places."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    radii = radius * rng.uniform(0.4, 1, corners)
    return np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1).reshape(-1)


def inside(polygon: np.ndarray, x: float, y: float) -> bool:
    """Whether a ray from the point to the right crosses the outline an odd number of times."""
    points, odd = polygon.reshape(-1, 2), False
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (ya > y) != (yb > y) and x < xa + (y - ya) / (yb - ya) * (xb - xa):
            odd = not odd
    return odd


def distance(polygon: np.ndarray, x: float, y: float) -> float:
    """From the point to the nearest side."""
    points, at, best = polygon.reshape(-1, 2), np.array([x, y]), math.inf
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        along = np.clip(np.dot(at - a, b - a) / max(np.dot(b - a, b - a), 1e-12), 0, 1)
        best = min(best, float(np.linalg.norm(at - a - along * (b - a))))
    return best


def test_targets_of_polygons_are_what_the_box_shows() -> None:
    """Cell by cell, but those within a cell of an outline, whose rounding is COCO's."""
    rng = np.random.default_rng(0)
    objects = [[star(rng, (40, 30), 25, 9)], [star(rng, (20, 20), 12, 6), star(rng, (60, 50), 10, 7)]]
    boxes = torch.tensor([[15.0, 5.5, 66.0, 56.0], [30.2, 20.7, 45.9, 60.1], [0, 0, 80, 70], [10, 8, 31, 33]])
    of, side, certain = torch.tensor([0, 0, 1, 1]), 28, 0
    found = Polygons(objects).crop(of, boxes, side)
    assert found.shape == (4, side, side) and found.dtype == torch.bool
    for r, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        scaled = [((p.reshape(-1, 2) - [x0, y0]) * [side / (x1 - x0), side / (y1 - y0)]) for p in objects[int(of[r])]]
        for row in range(side):
            for column in range(side):
                x, y = column + 0.5, row + 0.5
                if min(distance(p, x, y) for p in scaled) > 1:
                    assert found[r, row, column].item() == any(inside(p, x, y) for p in scaled), (r, row, column)
                    certain += 1
    assert certain > 0.6 * 4 * side * side and 0.1 < found.float().mean() < 0.9


def test_targets_of_rectangles_are_exact() -> None:
    """A box twice the object's size shows it in a quarter of the target; beside the object there is nothing."""
    objects = [[box_polygon(10, 20, 30, 40)], [box_polygon(10, 20, 20, 40), box_polygon(20, 20, 30, 40)]]
    boxes = torch.tensor([[10.0, 20, 30, 40], [10, 20, 50, 60], [50, 50, 60, 60]])
    for each in (0, 1):
        whole, quarter, none = Polygons(objects).crop(torch.full((3,), each), boxes, 14)
        assert whole.all() and not none.any()
        assert quarter[:7, :7].all() and quarter.sum() == 49


def test_targets_of_a_box_without_extent_exist() -> None:
    """Less than a tenth of a pixel counts as a tenth."""
    found = Polygons([[box_polygon(0, 0, 9, 9)]]).crop(torch.zeros(2).long(), torch.tensor([[4.0, 4, 4, 4]] * 2), 7)
    assert found.shape == (2, 7, 7) and found.all()


def naive_roi_mean(image: np.ndarray, box: list[float], side: int) -> np.ndarray:
    """(S, S): the mean of bilinear samples, about one per pixel of a cell, with pixel centres at halves."""
    height, width = image.shape
    x0, y0, x1, y1 = (v - 0.5 for v in box)
    cell_w, cell_h = (x1 - x0) / side, (y1 - y0) / side
    across, down = math.ceil(cell_w), math.ceil(cell_h)
    out = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            for i in range(down):
                for j in range(across):
                    y = y0 + cell_h * (row + (i + 0.5) / down)
                    x = x0 + cell_w * (column + (j + 0.5) / across)
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = min(int(y), height - 2), min(int(x), width - 2)
                    b, a = y - top, x - left
                    patch = image[top : top + 2, left : left + 2]
                    weights = np.outer([1 - b, b], [1 - a, a])
                    out[row, column] += (patch * weights).sum() / (down * across)
    return out


def test_targets_of_bitmaps_are_means_cut_at_one_half() -> None:
    rng = np.random.default_rng(1)
    maps = np.zeros((2, 40, 50), dtype=bool)
    maps[0, 8:30, 12:37] = True
    maps[1] = rng.random((40, 50)) < 0.5
    boxes = torch.tensor([[10.3, 6.1, 40.2, 33.3], [0, 0, 50, 40], [20.5, 1.5, 24.5, 38.0], [30, 20, 55, 45]])
    of = torch.tensor([0, 1, 0, 1])
    found = Bitmaps(torch.from_numpy(maps)).crop(of, boxes, 9)
    assert found.shape == (4, 9, 9) and found.dtype == torch.bool
    for r in range(4):
        mean = naive_roi_mean(maps[int(of[r])].astype(float), boxes[r].tolist(), 9)
        sure = abs(mean - 0.5) > 1e-5
        assert sure.mean() > 0.8 and (found[r].numpy() == (mean >= 0.5))[sure].all()
    assert 0.1 < found.float().mean() < 0.9


@pytest.mark.parametrize("kind", [lambda: Polygons([]), lambda: Bitmaps(torch.zeros(0, 8, 8) > 0)], ids=["p", "b"])
def test_an_image_without_objects_has_targets_of_no_rois(kind) -> None:
    found = kind()
    assert found.nonempty().shape == (0,)
    assert found.select(found.nonempty()).crop(torch.zeros(0).long(), torch.zeros(0, 4), 14).shape == (0, 14, 14)


def test_what_is_left_of_objects_and_the_choice_among_them() -> None:
    polygons = Polygons([[box_polygon(0, 0, 4, 4)], [], [box_polygon(4, 4, 8, 8)]])
    assert polygons.nonempty().tolist() == [True, False, True]
    kept = polygons.select(torch.tensor([False, False, True]))
    assert len(kept.objects) == 1 and kept.objects[0][0].tolist() == box_polygon(4, 4, 8, 8).tolist()
    maps = torch.zeros(3, 4, 4, dtype=torch.bool)
    maps[0, 1, 2] = maps[2] = True
    bitmaps = Bitmaps(maps)
    assert bitmaps.nonempty().tolist() == [True, False, True]
    assert torch.equal(bitmaps.select(torch.tensor([True, True, False])).maps, maps[:2])


def test_polygons_follow_resize_and_flip() -> None:
    """From 80 x 100 to 160 x 50 (height x width): y doubles, x halves, and a mirrored x is 50 - x."""
    (out,) = masks.transform([[10.0, 20.0, 30.0, 40.0, 50.0, 8.0]], (80, 100), (160, 50), flip=False)
    assert out.tolist() == [5, 40, 15, 80, 25, 16]
    (out,) = masks.transform([[10.0, 20.0, 30.0, 40.0, 50.0, 8.0]], (80, 100), (160, 50), flip=True)
    assert out.tolist() == [45, 40, 35, 80, 25, 16]


@pytest.mark.parametrize("flip", [False, True])
def test_run_lengths_become_the_nearest_pixels(flip: bool) -> None:
    old, new = (30, 40), (46, 32)  # no centre falls between two pixels
    pixels = np.random.default_rng(2).random(old) < 0.5
    out = masks.transform(mask_util.encode(np.asfortranarray(pixels.astype(np.uint8))), old, new, flip)
    assert isinstance(out, np.ndarray) and out.shape == new and out.dtype == bool
    for y in range(new[0]):
        for x in range(new[1]):
            source = new[1] - 1 - x if flip else x
            assert out[y, x] == pixels[int((y + 0.5) * old[0] / new[0]), int((source + 0.5) * old[1] / new[1])]


def test_bitmaps_of_polygons_are_their_union() -> None:
    both = masks.bitmap([box_polygon(1, 2, 4, 5), box_polygon(3, 3, 7, 6)], (8, 9))
    expected = np.zeros((8, 9), dtype=bool)
    expected[2:5, 1:4] = expected[3:6, 3:7] = True
    assert (both == expected).all()
    assert (masks.bitmap(mask_util.encode(np.asfortranarray(expected.astype(np.uint8))), (8, 9)) == expected).all()
    assert not masks.bitmap([], (8, 9)).any() and masks.bitmap([], (8, 9)).shape == (8, 9)


def naive_paste(mask: np.ndarray, box: list[float], height: int, width: int) -> np.ndarray:
    """(h, w): the mask's value at each pixel's centre, bilinear; beyond the mask lie zeros."""
    side, (x0, y0, x1, y1) = len(mask), box
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            v = (row + 0.5 - y0) / (y1 - y0) * side - 0.5
            u = (column + 0.5 - x0) / (x1 - x0) * side - 0.5
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < side and 0 <= j < side:
                        out[row, column] += mask[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return out


def test_pasted_masks_against_a_loop() -> None:
    """Boxes of fractions of pixels, larger and smaller than their masks, at and over the image's edges."""
    within = [[3.2, 4.7, 30.1, 21.9], [0, 0, 40, 32], [10.5, 10.5, 12.2, 30.0], [5, 5, 6, 6]]
    boxes = torch.tensor([*within, [-4.5, -3, 9.3, 8], [33, 20, 47, 39]])
    probabilities = torch.rand(len(boxes), 7, 7, generator=torch.Generator().manual_seed(0))
    found = masks.paste(probabilities, boxes, (32, 40))
    total = 0
    for mask, box, rle in zip(probabilities, boxes, found, strict=True):
        assert rle["size"] == [32, 40]
        value, pasted = naive_paste(mask.double().numpy(), box.tolist(), 32, 40), mask_util.decode(rle).astype(bool)
        sure = abs(value - 0.5) > 1e-5
        assert sure.mean() > 0.99 and (pasted == (value >= 0.5))[sure].all()
        total += pasted.sum()
    assert total > 200


def test_a_full_mask_fills_the_pixels_whose_centres_are_in_its_box() -> None:
    full = torch.ones(2, 28, 28)
    found = masks.paste(full, torch.tensor([[2.0, 3.0, 10.0, 8.0], [2.6, 2.4, 5.4, 3.4]]), (12, 14))
    first, second = (mask_util.decode(rle) for rle in found)
    assert first[3:8, 2:10].all() and first.sum() == 40
    assert second.nonzero()[0].tolist() == [2, 2] and second.nonzero()[1].tolist() == [3, 4]
    assert masks.paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (12, 14)) == []
