"""Turns the shapes of an image into its objects: checks them against the image and joins those of one group."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.wording import short
from transfer.data.boxes import check_box, size_fault
from transfer.data.faults import Faults
from transfer.data.importers.importer import BOX, ELLIPSE, POLYGON, Shape, Sheet
from transfer.data.segmentation import FAR, area, is_number
from transfer.data.spec import one_line

CORNERS = 64  # of the polygon that a circle or an ellipse becomes: 0.16% less area


@dataclass
class Object:
    """Holds one object of an image.

    Attributes:
        box: XYXY in absolute pixels.
        polygons: each [x0, y0, x1, y1, ...]; empty for an object that is only a box.
    """

    label: str
    box: tuple[float, float, float, float]
    polygons: list[list[float]]

    def area(self, size: tuple[int, int]) -> float:
        """Returns how many pixels of an image of (width, height) the polygons cover, or else the area of the box."""
        if self.polygons:
            return area(self.polygons, size[1], size[0])
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def objects(sheet: Sheet, size: tuple[int, int], left_out: Collection[str], faults: Faults) -> list[Object]:
    """Returns the objects of an image of (width, height), in the order of their first shapes.

    Args:
        left_out: the tool's words for shapes that are not read; `faults` notes such shapes.
    """
    found: dict[Any, tuple[Shape, Object]] = {}
    for shape in sheet.shapes:
        if shape.word in left_out:
            faults.note(f"shapes '{one_line(shape.word)}', left out", shape.where)
            continue
        what = _label_problem(shape.label)
        new = None
        if shape.kind is None:
            what = f"shape '{one_line(shape.word)}', which encloses nothing (draw it as a polygon, or --leave-out it)"
        elif what is None:
            new, what = _object(shape, size)
        if new is None:
            faults.error(what or "shape that cannot be read", shape.where)
            continue
        key: Any = id(shape) if shape.group is None else (shape.label, shape.group)
        first, known = found.setdefault(key, (shape, new))
        if known is not new:
            if bool(known.polygons) != bool(new.polygons):
                faults.error("rectangles and polygons in one group; draw all as polygons", shape.where)
            known.polygons += new.polygons
            known.box = _around([*known.box, *new.box])
    for shape, known in found.values():
        x0, y0, x1, y1 = known.box
        if wrong := size_fault((x0, y0, x1 - x0, y1 - y0), known.area(size), *size):
            faults.error(wrong[0], f"{shape.where}: {short(wrong[1])}")
    return [known for _, known in found.values()]


def _label_problem(label: Any) -> str | None:
    if not isinstance(label, str):
        return f"label {short(label)}, which is no name of a class"
    if not label.strip() or not label.isprintable() or label.strip() != label:
        return f"label {short(label)}: give a printable name without spaces around it"
    return None


def _object(shape: Shape, size: tuple[int, int]) -> tuple[Object | None, str | None]:
    """Returns the object of one shape, or what is wrong with the shape."""
    if not all(map(is_number, shape.values)):
        return None, f"{shape.word} with a coordinate that is no finite number"
    values = [float(v) for v in shape.values]
    count = {BOX: (4, 4), ELLIPSE: (5, 5), POLYGON: (6, math.inf)}[shape.kind or BOX]
    if len(values) % 2 and shape.kind is POLYGON or not count[0] <= len(values) <= count[1]:
        return None, f"{shape.word} of too few or too many points"
    polygons = []
    if shape.kind is POLYGON:
        polygons = [values]
    elif shape.kind is ELLIPSE:
        if min(values[2:4]) <= 0:
            return None, f"{shape.word} with a radius that is not above 0"
        polygons = [values := _corners(*values)]
    if shape.scaled:
        values = [v * size[i % 2] for i, v in enumerate(values)]
        polygons = [values for _ in polygons]
    for axis in (0, 1):
        along, limit = values[axis::2], size[axis]
        if min(along) < -FAR * limit or max(along) > (1 + FAR) * limit:
            return None, f"{shape.word} that lies far outside its image"
    box = _around(values)
    found = Faults()
    check_box(box, *size, shape.where, found)  # whoever checks the set tells what is no error
    if wrong := [problem.what for problem in found.problems if problem.level == "error"]:
        return None, f"{shape.word}: {wrong[0]}"
    return Object(shape.label, box, polygons), None


def _around(values: Sequence[float]) -> tuple[float, float, float, float]:
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _corners(x: float, y: float, rx: float, ry: float, angle: float) -> list[float]:
    """Returns a polygon with corners on an ellipse, among them the ends of the ellipse's own axes."""
    cos, sin = math.cos(angle), math.sin(angle)
    flat: list[float] = []
    for i in range(CORNERS):
        turn = 2 * math.pi * i / CORNERS
        u, v = rx * math.cos(turn), ry * math.sin(turn)
        flat += [x + u * cos - v * sin, y + u * sin + v * cos]
    return flat
