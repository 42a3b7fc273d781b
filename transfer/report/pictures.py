"""Draws pictures of data and detections: boxes, masks and names on images, contact sheets, PR curves."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Objects:
    """Holds what to draw on one image.

    Attributes:
        boxes: (M, 4) XYXY pixels of the image.
        labels: (M,) contiguous category ids.
        scores: (M,), or None for ground truth, which is drawn dashed.
        masks: (M, h, w) bool, or None.
        keypoints: (M, k, 3) x and y in pixels and a value above 0 where there is a point, or None.
        skeleton: (from, to) places of keypoints between which lines are drawn.
        classes: (h, w) class ids, or None; pixels of no class are left as they are.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    skeleton: Sequence[tuple[int, int]] = ()
    classes: np.ndarray | None = None

    @classmethod
    def of_map(cls, classes: np.ndarray) -> Objects:
        """Makes a map of classes without objects."""
        return cls(np.zeros((0, 4)), np.zeros(0, int), classes=classes)


def colour(category: int) -> Colour:
    """Returns a category's colour, the same in every picture; neighbouring ids have very different colours."""
    r, g, b = colorsys.hsv_to_rgb((category * 0.61803) % 1, 0.75, 1.0)
    return int(255 * r), int(255 * g), int(255 * b)


def draw(image: np.ndarray, objects: Objects, names: Sequence[str], long_edge: int = 640) -> Image.Image:
    """Draws the objects on the image, scaled so that its longer edge has `long_edge` pixels.

    Args:
        image: (h, w, 3) uint8 RGB.
        names: names of the categories.
    """
    scale = long_edge / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    pixels = image.astype(np.float32)
    for i, mask in enumerate(objects.masks if objects.masks is not None else ()):
        pixels[mask] = 0.55 * pixels[mask] + 0.45 * np.array(colour(int(objects.labels[i])), np.float32)
    if objects.classes is not None:
        pixels = tinted(pixels, objects.classes, len(names))
    canvas = Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    for category, (x, y) in _places(objects.classes, len(names)).items():
        pen.text((x * scale, y * scale), names[category], fill=colour(category), font=font, anchor="mm",
                 stroke_width=3, stroke_fill=(0, 0, 0))  # fmt: skip
    order = range(len(objects.boxes)) if objects.scores is None else np.argsort(objects.scores, kind="stable")
    for i in order:  # the surest on top
        category = int(objects.labels[i])
        x0, y0, x1, y1 = (float(v) * scale for v in objects.boxes[i])
        if objects.scores is None:
            _dashed(pen, (x0, y0, x1, y1), colour(category))
        else:
            pen.rectangle((x0, y0, x1, y1), outline=colour(category), width=2)
        words = names[category] if objects.scores is None else f"{names[category]} {objects.scores[i]:.2f}"
        if objects.keypoints is not None:
            _pose(pen, objects.keypoints[i] * [scale, scale, 1], objects.skeleton, colour(category))
        left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
        width, height = right - left + 6, bottom - top + 6
        x, y = max(0.0, min(x0, size[0] - width)), y0 - height if y0 >= height else min(y0, size[1] - height)
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=(0, 0, 0))
        pen.text((x + 3 - left, y + 3 - top), words, fill=colour(category), font=font)
    return canvas


def _pose(pen: ImageDraw.ImageDraw, points: np.ndarray, skeleton: Sequence[tuple[int, int]], ink: Colour) -> None:
    """Draws points as dots, hollow if hidden (visibility 1), and the lines between existing points."""
    places = [(float(x), float(y)) for x, y, _ in points]
    for a, b in skeleton:
        if points[a, 2] > 0 and points[b, 2] > 0:
            pen.line([places[a], places[b]], fill=ink, width=2)
    for (x, y), seen in zip(places, points[:, 2], strict=True):
        if seen > 0:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(0, 0, 0) if seen == 1 else ink, outline=ink)


def tinted(pixels: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Tints (h, w, 3) float pixels with the colours of a (h, w) map; ids from `count` on are ignored, not tinted."""
    colours = np.array([colour(i) for i in range(count)], np.float32).reshape(-1, 3)
    known = classes < count
    out = pixels.copy()
    out[known] = 0.45 * pixels[known] + 0.55 * colours[classes[known]]
    return out


def _places(classes: np.ndarray | None, count: int) -> dict[int, tuple[float, float]]:
    """Returns class id -> (x, y) of its pixel nearest to its centre, for classes on at least 1% of the image."""
    places: dict[int, tuple[float, float]] = {}
    if classes is None:
        return places
    for category in range(count):
        ys, xs = np.nonzero(np.equal(classes, category))
        if len(ys) >= 0.01 * classes.size:
            nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
            places[category] = float(xs[nearest]), float(ys[nearest])
    return places


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], ink: Colour, dash: int = 8) -> None:
    x0, y0, x1, y1 = box
    for a, b in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
        length = max(abs(b[0] - a[0]), abs(b[1] - a[1]))
        for start in np.arange(0, length, 1.6 * dash):
            part = [start / max(length, 1e-6), min(start + dash, length) / max(length, 1e-6)]
            ends = [(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for t in part]
            pen.line(ends, fill=ink, width=2)


def sheet(rows: Sequence[Sequence[Image.Image]], heads: Sequence[str] = (), gap: int = 8) -> Image.Image:
    """Arranges pictures in rows on white, with `heads` over the columns."""
    columns = max(map(len, rows))
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    top = 28 if heads else 0
    canvas = Image.new("RGB", (sum(widths) + gap * (columns + 1), top + sum(heights) + gap * (len(rows) + 1)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for c, words in enumerate(heads):
        pen.text((gap + sum(widths[:c]) + gap * c, 6), words, fill="black", font=font)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            canvas.paste(picture, (gap + sum(widths[:c]) + gap * c, top + gap + sum(heights[:r]) + gap * r))
    return canvas


def from_the_left(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a curve that begins at recall 0, since AP counts what lies before the first object that is found."""
    return (np.append(0.0, recall), np.append(precision[0], precision)) if len(recall) else (recall, precision)


def precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], scores: Mapping[str, float], title: str, path: Path
) -> None:
    """Draws a PNG with a small plot per class: precision over recall at IoU .5.

    Args:
        curves: name -> (recall, precision), in [0, 1].
        scores: name -> percent, for the plots' titles.
    """
    columns = min(5, max(1, len(curves)))
    lines = -(-max(1, len(curves)) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.1 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    for ax, (name, (recall, precision)) in zip(axes.flat, curves.items(), strict=False):
        recall, precision = from_the_left(recall, precision)
        ax.plot(recall, precision, linewidth=1.6, color="#2563eb")
        ax.fill_between(recall, precision, alpha=0.12, color="#2563eb")
        ax.set(xlim=(0, 1), ylim=(0, 1.02))
        ax.set_title(f"{name}  {scores[name]:.1f}", fontsize=9, parse_math=False)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(path, dpi=130)
