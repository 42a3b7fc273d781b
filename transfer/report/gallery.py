"""A few test images with what is there and what each row's first trial found."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from transfer.data import catalog
from transfer.data.catalog import DatasetSpec, Record
from transfer.evaluation.predictions import ImageDetections
from transfer.report.markup import Markup, css_colour, join, named, tag

LONG_EDGE = 480  # pixels of an image in the page
Plate = tuple[float, float, float]  # x, y, width; all plates of a picture are equally high


@dataclass(frozen=True)
class Found:
    """One row's detections on the data set of a gallery, by image id."""

    row: str
    colour: int
    seed: int
    detections: Mapping[str | int, ImageDetections]


def choose(records: Sequence[Record], count: int) -> list[Record]:
    """Images with objects, evenly spaced in the data set's order: chosen without looking at any result."""
    usable = [r for r in records if r["annotations"]]
    where = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return [usable[i] for i in where]


def gallery(spec: DatasetSpec, rows: Sequence[Found], count: int = 4) -> Markup:
    """Per image one picture for each row: annotated boxes dashed, as many of the surest detections solid.

    Raises:
        DatasetError, OSError: annotations or images are not here.
    """
    names = catalog.class_names(spec)
    groups = []
    for number, record in enumerate(choose(catalog.load(spec), count)):
        pixels = _definition(record, f"test-image-{number}")
        pictures = [_picture(record, f"test-image-{number}", found, names) for found in rows]
        groups.append(tag("li", pixels, tag("p", f"image {record['image_id']}", class_="image-id"),
                          tag("div", *pictures, class_="pictures")))  # fmt: skip
    return tag("ul", *groups, class_="gallery", style=f"--rows: {len(rows)}")


def _definition(record: Record, name: str) -> Markup:
    """The pixels, once; every row's picture refers to them."""
    with Image.open(Path(record["file_name"])) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((LONG_EDGE, LONG_EDGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    size = {"width": record["width"], "height": record["height"], "preserveAspectRatio": "none"}
    return tag("svg", tag("defs", tag("image", id=name, href=data, **size)), class_="definition", aria_hidden="true")


def _picture(record: Record, pixels: str, found: Found, names: Sequence[str]) -> Markup:
    width, height = record["width"], record["height"]
    detections = found.detections.get(record["image_id"])
    truth = [a for a in record["annotations"] if not a.get("iscrowd")]
    shown: list[tuple[float, str, list[float]]] = []
    if detections is not None:
        surest = np.argsort(-detections.scores, kind="stable")[: len(truth)][::-1]  # the surest on top
        shown = [
            (float(detections.scores[i]), names[detections.classes[i]], detections.boxes[i].tolist()) for i in surest
        ]
    unit = width / 100  # all pictures are shown equally wide
    parts = [tag("use", href=f"#{pixels}")]
    parts += [_box(a["bbox"], "truth-under", unit) for a in truth] + [_box(a["bbox"], "truth", unit) for a in truth]
    parts += [_box(box, "found-under", unit) for _, _, box in shown] + [_box(box, "found", unit) for _, _, box in shown]
    taken: list[Plate] = []  # the surest choose their place first
    labels = [_label(f"{name} {score:.2f}", box, width, height, taken) for score, name, box in reversed(shown)]
    parts += reversed(labels)
    there = ", ".join(sorted(names[a["category_id"]] for a in truth)) or "nothing"
    said = ", ".join(f"{name} {score:.2f}" for score, name, _ in reversed(shown)) or "nothing"
    alt = f"Test image {record['image_id']}, {found.row}: annotated {there}; detected {said}"
    svg = tag(
        "svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=alt, class_="picture",
        style=f"--colour: {css_colour(found.colour)}",
    )  # fmt: skip
    return tag("figure", svg, tag("figcaption", named(found.colour, f"{found.row}, seed {found.seed}")))


def _box(box: Sequence[float], kind: str, unit: float) -> Markup:
    """XYXY absolute pixels."""
    x0, y0, x1, y1 = (round(v, 1) for v in box)
    widths = {"truth-under": 1.0, "truth": 0.5, "found-under": 1.5, "found": 0.8}
    size = {"width": round(x1 - x0, 1), "height": round(y1 - y0, 1), "stroke_width": round(widths[kind] * unit, 2)}
    dashes = f"{1.6 * unit:.2f} {1.2 * unit:.2f}" if kind == "truth" else None
    return tag("rect", x=x0, y=y0, **size, stroke_dasharray=dashes, class_=kind)


def _label(words: str, box: Sequence[float], width: float, height: float, taken: list[Plate]) -> Markup:
    """A plate above, in or beneath the box, the first of these that is free. Its width is an estimate: fonts differ."""
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
