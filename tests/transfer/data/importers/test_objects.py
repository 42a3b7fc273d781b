"""Shapes made into objects, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transfer.data.faults import Faults
from transfer.data.importers.importer import BOX, ELLIPSE, POLYGON, Shape, Sheet
from transfer.data.importers.objects import Object, objects

SIZE = (64, 48)


def made(*shapes: Shape) -> list[Object]:
    faults = Faults()
    found = objects(Sheet("a.jpg", "a.json", shapes), SIZE, (), faults)
    assert not faults.problems, faults.problems
    return found


def enclosed(polygon: list[float]) -> float:
    """The area of a polygon that does not cross itself, by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def shape(kind: str, values: list[float], **more: Any) -> Shape:
    return Shape(kind, kind, values, "cat", "a.json shape 1", **more)


@given(st.integers(0, 40), st.integers(0, 30), st.integers(1, 20), st.integers(1, 15), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_rectangle_drawn_in_any_way(x: int, y: int, w: int, h: int, first: int, backwards: bool) -> None:
    """As two corners, as a polygon from any corner in either direction, in shares of the image: one box, one area."""
    x1, y1 = x + w, y + h
    corners = [(x, y), (x1, y), (x1, y1), (x, y1)]
    corners = (corners[first:] + corners[:first])[:: -1 if backwards else 1]
    polygon = [float(v) for corner in corners for v in corner]
    two = [*corners[0], *corners[2]]
    scaled = [v / SIZE[i % 2] for i, v in enumerate(two)]
    for o in made(shape(BOX, two), shape(POLYGON, polygon), shape(BOX, scaled, scaled=True)):
        assert o.box == pytest.approx((x, y, x1, y1)) and o.area(SIZE) == pytest.approx(w * h)


@given(st.floats(20, 44), st.floats(20, 28), st.floats(1, 15), st.floats(1, 15), st.floats(-4, 4))
@settings(max_examples=60, deadline=None)
def test_an_ellipse_turned_anyhow(x: float, y: float, rx: float, ry: float, angle: float) -> None:
    (o,) = made(shape(ELLIPSE, [x, y, rx, ry, angle]))
    (polygon,) = o.polygons
    assert enclosed(polygon) == pytest.approx(rx * ry * 32 * math.sin(2 * math.pi / 64))  # 64 triangles
    assert 0.998 < enclosed(polygon) / (math.pi * rx * ry) < 1
    half = (
        math.hypot(rx * math.cos(angle), ry * math.sin(angle)),
        math.hypot(rx * math.sin(angle), ry * math.cos(angle)),
    )
    assert o.box == pytest.approx((x - half[0], y - half[1], x + half[0], y + half[1]), abs=0.0013 * max(rx, ry))


@given(st.lists(st.tuples(st.floats(0, 64), st.floats(0, 48)), min_size=3, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_star_shaped_polygon(points: list[tuple[float, float]]) -> None:
    """Corners sorted around their middle: the area is that within the sides, but for the pixels that they cross."""
    assume(max(map(max, points)) > 1)  # else refused: it may be in shares of the image
    middle = np.mean(points, axis=0)
    ordered = np.array(sorted(points, key=lambda p: math.atan2(p[1] - middle[1], p[0] - middle[0])))
    (o,) = made(shape(POLYGON, ordered.reshape(-1).tolist()))
    sides = float(np.hypot(*(ordered - np.roll(ordered, -1, axis=0)).T).sum())
    assert abs(o.area(SIZE) - enclosed(o.polygons[0])) <= sides + 4
    assert o.box == (*ordered.min(axis=0), *ordered.max(axis=0))


def test_what_parts_share_counts_once_and_a_crossing_takes_nothing_away() -> None:
    """Two squares that share a quarter, drawn as one object; a bow; a square half outside the image."""
    first, second = [10, 10, 20, 10, 20, 20, 10, 20], [15, 15, 25, 15, 25, 25, 15, 25]
    (o,) = made(shape(POLYGON, first, group=1), shape(POLYGON, second, group=1))
    assert o.area(SIZE) == 100 + 100 - 25
    (bow,) = made(shape(POLYGON, [10, 10, 30, 30, 30, 10, 10, 30]))
    assert enclosed(bow.polygons[0]) == 0 and bow.area(SIZE) == pytest.approx(200, abs=20)
    (cut,) = made(shape(POLYGON, [54, 10, 74, 10, 74, 20, 54, 20]))
    assert cut.area(SIZE) == 10 * 10
