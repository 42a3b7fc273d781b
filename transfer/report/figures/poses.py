"""Draws keypoints on the page's test images: annotated ones as rings, detected ones as dots joined by lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transfer.report.markup import Markup, tag

Skeleton = Sequence[tuple[int, int]]


def annotated(points: Sequence[float], unit: float) -> list[Markup]:
    """Draws a ring for every labelled point.

    Args:
        points: a record's flat list [x, y, visibility, ...].
        unit: a hundredth of the picture's width.
    """
    rows = np.reshape(np.asarray(points, float), (-1, 3))
    rings = [(x, y) for x, y, seen in rows.tolist() if seen > 0]
    return [_dot(place, kind, unit) for kind in ("ring-under", "ring") for place in rings]


def detected(points: np.ndarray, skeleton: Skeleton, unit: float) -> list[Markup]:
    """Draws all points of one detection, (k, 3), since a detector says where each is, whether hidden or not."""
    places = [(x, y) for x, y, _ in points.tolist()]
    lines = [
        tag(
            "line", x1=round(places[a][0], 1), y1=round(places[a][1], 1), x2=round(places[b][0], 1),
            y2=round(places[b][1], 1), stroke_width=round(0.5 * unit, 2), class_="bone",
        )
        for a, b in skeleton
    ]  # fmt: skip
    return [*lines, *(_dot(place, "dot", unit) for place in places)]


def _dot(place: tuple[float, float], kind: str, unit: float) -> Markup:
    radius, width = {"ring-under": (1.3, 0.9), "ring": (1.3, 0.4), "dot": (0.8, 0.2)}[kind]
    x, y = place
    return tag(
        "circle", cx=round(x, 1), cy=round(y, 1), r=round(radius * unit, 2), stroke_width=round(width * unit, 2),
        class_=kind,
    )  # fmt: skip
