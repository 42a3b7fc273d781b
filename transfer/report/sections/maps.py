"""Makes the page's section of predicted maps of classes: the test images on which the rows disagree most."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pretrain.runtime.pixels import opened
from transfer.data import catalog
from transfer.data.catalog import Dataset, Record
from transfer.data.label_maps import read_labels
from transfer.evaluation.miou import map_file
from transfer.evaluation.protocols import PROTOCOLS
from transfer.report.collected import ColumnReport
from transfer.report.figures.gallery import LONG_EDGE
from transfer.report.markup import Markup, named, section, tag
from transfer.report.pictures import colour, tinted
from transfer.trials.plan import Plan
from transfer.trials.run import trial_folder

logger = logging.getLogger(__name__)

RULE = (
    "Of the test images whose predicted maps were kept (the first of the set), those on which the rows' first trials "
    "differ most in the share of labelled pixels that are right."
)


@dataclass(frozen=True)
class _Row:
    """Holds a row's first finished trial that has maps; `folder` is the trial's folder."""

    name: str
    colour: int
    seed: int
    folder: Path


def maps(plan: Plan, column: ColumnReport, count: int = 4) -> Markup | None:
    """Shows annotated and predicted maps side by side; returns None if the column's task predicts no maps."""
    try:
        groups = [group for dataset in _datasets(plan, column) if (group := _group(dataset, column, count)) is not None]
    except (ValueError, OSError) as error:  # a data set that is not here must not keep the report from being written
        logger.warning("no maps of classes in the report: %s", error)
        return section("maps", "Maps of classes", tag("p", f"Not shown: {error}", class_="lead"))
    return section("maps", "Maps of classes", *groups) if groups else None


def _datasets(plan: Plan, column: ColumnReport) -> list[Dataset]:
    job = next((row.job for row in column.rows if row.results and row.job is not None), None)
    if job is None:
        return []
    cfg = plan.config(job.config, job.opts)
    found = [catalog.open_dataset(spec) for spec in catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)]
    return [dataset for dataset in found if PROTOCOLS[dataset.protocols[0]].maps]


def _group(dataset: Dataset, column: ColumnReport, count: int) -> Markup | None:
    rows = []
    for i, row in enumerate(column.rows):
        folders = [(r.seed, trial_folder(row.folder, r.seed)) for r in row.results]
        kept = [(seed, folder) for seed, folder in folders if map_file(folder, dataset.name, 0).is_file()]
        rows += [_Row(row.name, i, *kept[0])] if kept else []
    if not rows:
        return None
    shared = [
        i for i in range(len(dataset.records)) if all(map_file(r.folder, dataset.name, i).is_file() for r in rows)
    ]
    right = {i: _right(dataset, i, rows) for i in shared}
    chosen = sorted(shared, key=lambda i: min(right[i]) - max(right[i]))[:count]
    items = [_item(dataset, i, rows, right[i]) for i in chosen]
    lead = f"{RULE} {dataset.name}; what is ignored has no tint."
    keys = [_key(i, name) for i, name in enumerate(dataset.classes)]
    return tag(
        "div", tag("p", lead, class_="lead"), tag("ul", *items, class_="gallery", style=f"--rows: {len(rows) + 1}"),
        tag("ul", *keys, class_="scores"), class_="group",
    )  # fmt: skip


def _right(dataset: Dataset, i: int, rows: Sequence[_Row]) -> list[float]:
    """Returns per row the percentage of an image's labelled pixels that its map has right."""
    truth = read_labels(dataset.records[i]["sem_seg_file_name"])
    counts = truth < len(dataset.classes)
    if not counts.any():
        return [0.0] * len(rows)
    found = [read_labels(map_file(row.folder, dataset.name, i)) for row in rows]
    if any(each.shape != truth.shape for each in found):
        raise ValueError(f"a kept map of image {i} of '{dataset.name}' has another size than the image has now")
    return [100 * float((each == truth)[counts].mean()) for each in found]


def _item(dataset: Dataset, i: int, rows: Sequence[_Row], right: Sequence[float]) -> Markup:
    record, classes = dataset.records[i], len(dataset.classes)
    pixels = _pixels(record)
    said = ", ".join(f"{row.name} {share:.1f}%" for row, share in zip(rows, right, strict=True))
    truth = tinted(pixels, read_labels(record["sem_seg_file_name"]), classes)
    figures = [_figure(truth, f"Test image {record['image_id']}, annotated classes", "annotated")]
    for row, share in zip(rows, right, strict=True):
        found = tinted(pixels, read_labels(map_file(row.folder, dataset.name, i)), classes)
        alt = f"Test image {record['image_id']}, {row.name}: {share:.1f}% of the pixels right"
        figures.append(_figure(found, alt, named(row.colour, f"{row.name}, seed {row.seed}")))
    caption = tag("p", f"image {record['image_id']} · pixels right: {said}", class_="image-id")
    return tag("li", caption, tag("div", *figures, class_="pictures"))


def _pixels(record: Record) -> np.ndarray:
    with opened(record["file_name"]) as file:
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"), np.float32)


def _figure(pixels: np.ndarray, alt: str, words: str | Markup) -> Markup:
    image = Image.fromarray(pixels.astype(np.uint8))
    image.thumbnail((LONG_EDGE, LONG_EDGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    element = tag("image", href=data, width=image.width, height=image.height)
    box = f"0 0 {image.width} {image.height}"
    svg = tag("svg", element, viewBox=box, role="img", aria_label=alt, class_="picture")
    return tag("figure", svg, tag("figcaption", words))


def _key(category: int, name: str) -> Markup:
    r, g, b = colour(category)
    swatch = f"display: inline-block; width: .8em; height: .8em; margin-right: .4em; background: rgb({r}, {g}, {b})"
    return tag("li", tag("i", style=swatch), name)
