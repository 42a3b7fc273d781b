"""Shows a few test images with their annotations and what each row's first trial found."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from pretrain.runtime.pixels import opened
from transfer.data.catalog import Record
from transfer.evaluation.objects_found import finders, objects, surest
from transfer.report.evaluated import Found
from transfer.report.figures import poses
from transfer.report.figures.poses import Skeleton
from transfer.report.markup import Markup, css_colour, join, named, tag

LONG_EDGE = 480  # pixels of an image in the page
Plate = tuple[float, float, float]  # x, y, width; all plates of a picture are equally high


def choose(records: Sequence[Record], count: int) -> list[Record]:
    """Chooses images with objects or a map, evenly spaced in the data set's order, without looking at any result.

    If no image has any, it chooses among all images.
    """
    usable = [r for r in records if r["annotations"] or "sem_seg_file_name" in r] or records
    return [usable[i] for i in evenly(len(usable), count)]


def evenly(total: int, count: int) -> list[int]:
    """Returns at most `count` evenly spaced positions among `total`, the first and the last included."""
    return [int(i) for i in np.linspace(0, total - 1, min(count, total)).round()]


class Gallery:
    """Makes the pictures of one test set; pixels that several pictures show are in the page once."""

    def __init__(self, names: Sequence[str], skeleton: Skeleton = ()):
        """
        Args:
            names: names of the classes.
            skeleton: the lines between keypoints, if there are any.
        """
        self.names, self.skeleton = names, skeleton
        self._known: dict[str | int, str] = {}

    def item(self, record: Record, rows: Sequence[Found], caption: str) -> Markup:
        """Shows one image in a picture per row: annotated boxes dashed, as many of the surest detections solid.

        Raises:
            OSError: the image file is not here.
        """
        name, pixels = self._known.get(record["image_id"]), None
        if name is None:
            name = self._known[record["image_id"]] = f"test-image-{len(self._known)}"
            pixels = _pixels(record, name)
        pictures = [_picture(record, name, found, self.names, self.skeleton) for found in rows]
        return tag("li", pixels, tag("p", caption, class_="image-id"), tag("div", *pictures, class_="pictures"))


def _pixels(record: Record, name: str) -> Markup:
    with opened(record["file_name"]) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((LONG_EDGE, LONG_EDGE), Image.Resampling.LANCZOS)
    return definition(image, name, record["width"], record["height"])


def definition(image: Image.Image, name: str, width: float, height: float) -> Markup:
    """Puts pixels into the page once, for `<use href="#name">` in pictures, where they cover `width` x `height`."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    element = tag("image", id=name, href=data, width=width, height=height, preserveAspectRatio="none")
    return tag("svg", tag("defs", element), class_="definition", aria_hidden="true")


def _picture(record: Record, pixels: str, found: Found, names: Sequence[str], skeleton: Skeleton) -> Markup:
    width, height = record["width"], record["height"]
    detections = found.detections.get(record["image_id"])
    truth = objects(record)
    shown: list[tuple[str, list[float], bool]] = []
    points: list[np.ndarray] = []
    if detections is not None:
        right = finders(record, detections)
        for i in surest(detections, len(truth))[::-1]:  # the surest on top
            words = f"{names[detections.classes[i]]} {detections.scores[i]:.2f}"
            shown.append((words, detections.boxes[i].tolist(), i in right))
            points += [] if detections.keypoints is None else [detections.keypoints[i]]
    unit = width / 100  # all pictures are shown equally wide
    parts = [tag("use", href=f"#{pixels}")]
    parts += [_box(a["bbox"], "truth-under", unit) for a in truth] + [_box(a["bbox"], "truth", unit) for a in truth]
    parts += [_box(box, "found-under", unit) for _, box, right in shown if right]
    parts += [_box(box, "found" if right else "missed", unit) for _, box, right in shown]
    if points:
        parts += [mark for a in truth for mark in poses.annotated(a.get("keypoints", ()), unit)]
        parts += [mark for of_one in points for mark in poses.detected(of_one, skeleton, unit)]
    taken: list[Plate] = []  # the surest choose their place first
    labels = [
        _label(("✓ " if right else "") + words, box, width, height, taken) for words, box, right in reversed(shown)
    ]
    parts += reversed(labels)
    there = ", ".join(sorted(names[a["category_id"]] for a in truth)) or "nothing"
    said = ", ".join(words + " (right)" * right for words, _, right in reversed(shown)) or "nothing"
    alt = f"Test image {record['image_id']}, {found.row}: annotated {there}; detected {said}"
    svg = tag(
        "svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=alt, class_="picture",
        style=f"--colour: {css_colour(found.colour)}",
    )  # fmt: skip
    return tag("figure", svg, tag("figcaption", named(found.colour, f"{found.row}, seed {found.seed}")))


def _box(box: Sequence[float], kind: str, unit: float) -> Markup:
    """Draws a box given in XYXY absolute pixels."""
    x0, y0, x1, y1 = (round(v, 1) for v in box)
    widths = {"truth-under": 1.0, "truth": 0.5, "found-under": 1.5, "found": 0.9, "missed": 0.6}
    size = {
        "width": round(max(x1 - x0, 0), 1),
        "height": round(max(y1 - y0, 0), 1),
        "stroke_width": round(widths[kind] * unit, 2),
    }
    dashes = f"{1.6 * unit:.2f} {1.2 * unit:.2f}" if kind == "truth" else None
    return tag("rect", x=x0, y=y0, **size, stroke_dasharray=dashes, class_=kind)


def _label(words: str, box: Sequence[float], width: float, height: float, taken: list[Plate]) -> Markup:
    """Draws a plate in the first free place above, in or beneath the box; its width is an estimate, as fonts differ."""
    size = 0.039 * width
    w, h = size * (0.56 * len(words) + 0.6), size * 1.3
    x = max(0.0, min(box[0], width - w))
    inside = [y for y in (box[1] - h, box[1], box[3], box[3] - h) if 0 <= y <= height - h] or [0.0]
    free = [y for y in inside if not any(abs(y - b) < h and x < a + c and a < x + w for a, b, c in taken)]
    y = (free or inside)[0]
    taken.append((x, y, w))
    plate = tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{w:.1f}", height=f"{h:.1f}", class_="plate")
    text = tag("text", words, x=f"{x + 0.3 * size:.1f}", y=f"{y + 0.98 * size:.1f}", font_size=f"{size:.2f}")
    return join([plate, text])
