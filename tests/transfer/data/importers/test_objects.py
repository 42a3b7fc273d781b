"""Shapes made into objects, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.data.faults import Faults
from transfer.data.importers.importer import BOX, ELLIPSE, POLYGON, Shape, Sheet
from transfer.data.importers.objects import Object, objects
from transfer.data.segmentation import area

SIZE = (64, 48)


def made(*shapes: Shape) -> list[Object]:
    faults = Faults()
    found = objects(Sheet("a.jpg", "a.json", shapes), SIZE, (), faults)
    assert not faults.problems, faults.problems
    return found


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
        assert o.box == pytest.approx((x, y, x1, y1)) and o.area == pytest.approx(w * h)
    assert area([polygon], SIZE[1], SIZE[0]) == w * h  # as pycocotools counts pixels


@given(st.floats(20, 44), st.floats(20, 28), st.floats(1, 15), st.floats(1, 15), st.floats(-4, 4))
@settings(max_examples=60, deadline=None)
def test_an_ellipse_turned_anyhow(x: float, y: float, rx: float, ry: float, angle: float) -> None:
    (o,) = made(shape(ELLIPSE, [x, y, rx, ry, angle]))
    assert o.area == pytest.approx(rx * ry * 32 * math.sin(2 * math.pi / 64))  # 64 triangles
    assert 0.998 < o.area / (math.pi * rx * ry) < 1
    half = (
        math.hypot(rx * math.cos(angle), ry * math.sin(angle)),
        math.hypot(rx * math.sin(angle), ry * math.cos(angle)),
    )
    assert o.box == pytest.approx((x - half[0], y - half[1], x + half[0], y + half[1]), abs=0.0013 * max(rx, ry))


@given(st.lists(st.tuples(st.floats(0, 64), st.floats(0, 48)), min_size=3, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_star_shaped_polygon(points: list[tuple[float, float]]) -> None:
    """Corners sorted around their middle: the area is the sum of the triangles between it and each side."""
    middle = np.mean(points, axis=0)
    ordered = np.array(sorted(points, key=lambda p: math.atan2(p[1] - middle[1], p[0] - middle[0])))
    (o,) = made(shape(POLYGON, ordered.reshape(-1).tolist()))
    a, b = ordered - middle, np.roll(ordered, -1, axis=0) - middle
    assert o.area == pytest.approx(abs(float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum())) / 2, abs=1e-6)
    assert o.box == (*ordered.min(axis=0), *ordered.max(axis=0))
