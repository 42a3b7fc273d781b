"""Looks a dataset over before a run does: what is missing or inconsistent, all of it, on one screen."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image, ImageOps

from pretrain.runtime.log import progress
from transfer.data import coco, voc
from transfer.data.spec import DatasetError, DatasetSpec, few, nearest

T = TypeVar("T")

EXPECTED_IMAGES = {
    "voc_2007_train": 2501,
    "voc_2007_val": 2510,
    "voc_2007_trainval": 5011,
    "voc_2007_test": 4952,
    "voc_2012_train": 5717,
    "voc_2012_val": 5823,
    "voc_2012_trainval": 11540,
    "coco_2017_train": 118287,
    "coco_2017_val": 5000,
}


@dataclass(frozen=True)
class Problem:
    """`what` went wrong, and where, in order of discovery. An error stops a run or spoils its numbers."""

    level: Literal["error", "warning"]
    what: str
    where: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = f" [{len(self.where)}x]" if len(self.where) > 1 else ""
        return f"{self.level}: {self.what}{times}" + (f": {few(self.where)}" if self.where else "")


@dataclass(frozen=True)
class Report:
    """What `check` found. `boxes` and `set_aside` count objects per class; set aside are difficult ones or crowds."""

    spec: DatasetSpec
    images: int
    boxes: dict[str, int]
    set_aside: dict[str, int]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings may remain."""
        return all(problem.level != "error" for problem in self.problems)

    def __str__(self) -> str:
        spec = self.spec
        aside = "difficult" if spec.format == "voc" else "crowd"
        source = voc.split_file(spec) if spec.format == "voc" else spec.json_file
        total = (
            f"{self.images} images, {sum(self.boxes.values())} boxes, {sum(self.set_aside.values())} of them {aside}"
        )
        lines = [f"{spec.name}: {total}", f"  {source}"]
        cells = []
        width = max((len(name) for name in self.boxes), default=0)
        for name, count in self.boxes.items() if self.images else ():
            cells.append(
                f"{name:{width}} {count:7d}" + (f" ({self.set_aside[name]})" if name in self.set_aside else "")
            )
        columns = 1 if len(cells) <= 10 else 3
        rows = -(-len(cells) // columns)
        cell_width = max((len(cell) for cell in cells), default=0) + 3
        for row in range(rows):
            lines.append("  " + "".join(f"{cell:{cell_width}}" for cell in cells[row::rows]).rstrip())
        lines += [f"  {problem}" for problem in self.problems]
        said = any(spec.remedy in problem.what for problem in self.problems)  # by what could not be read at all
        remedy = f"; {spec.remedy}" if spec.remedy and not said else ""
        lines.append("  ok" if self.ok else f"  not usable as it is{remedy}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Image:
    """One listed image. `objects`: (class name, XYXY box, set aside). `path` None: the file is missing (reported)."""

    label: str
    path: Path | None
    width: int
    height: int
    objects: list[tuple[str, tuple[float, float, float, float], bool]]


class _Problems:
    """Collects; equal faults share a line."""

    def __init__(self) -> None:
        self.found: dict[str, Problem] = {}

    def error(self, what: str, *where: str) -> None:
        self.found.setdefault(what, Problem("error", what)).where.extend(where)

    def warn(self, what: str, *where: str) -> None:
        self.found.setdefault(what, Problem("warning", what)).where.extend(where)


def check(spec: DatasetSpec, decode: bool = True) -> Report:
    """Everything that is missing or inconsistent in one dataset. Faults are reported, never raised.

    Errors: missing or malformed files, images that cannot be read or whose size differs from the annotation, classes
    that are not listed, boxes inverted or wholly outside, an image listed twice, and for the official sets a number of
    images other than the published one. Warnings: boxes without area (training leaves them out) or reaching over the
    border (training clips them), listed classes without an object.

    Args:
        decode: decode every image, which finds truncated files; False reads only their headers.
    """
    problems = _Problems()
    try:
        images = _voc_images(spec, problems) if spec.format == "voc" else _coco_images(spec, problems)
        names = spec.classes or tuple(coco.categories(spec, coco.read_json(spec)).values())
    except DatasetError as error:
        problems.error(str(error))
        images, names = [], spec.classes or ()
    boxes, aside = dict.fromkeys(names, 0), Counter[str]()
    for image in images:
        for name, box, set_aside in image.objects:
            boxes[name] = boxes.get(name, 0) + 1
            aside[name] += set_aside
            _check_box(image, name, box, problems)
    _check_files(images, decode, problems)
    if images:
        for name in names:
            if not boxes[name]:
                problems.warn("no object of a listed class, whose AP is then undefined or 0", name)
        labels = Counter(image.label for image in images)
        for label, times in labels.items():
            if times > 1:
                problems.error("image listed more than once", label)
    expected = EXPECTED_IMAGES.get(spec.name)
    if images and expected is not None and len(images) != expected:
        problems.error(f"{len(images)} images; the official set has {expected}")
    found = sorted(problems.found.values(), key=lambda problem: problem.level)
    return Report(spec, len(images), boxes, {name: n for name, n in aside.items() if n}, found)


def _voc_images(spec: DatasetSpec, problems: _Problems) -> list[_Image]:
    ids, files = voc.read_split(spec), voc.image_files(spec)
    images = []
    for image_id in _bar(ids, "annotations", len(ids)):
        path = files.get(image_id)
        if path is None:
            problems.error("image missing from JPEGImages", image_id)
        try:
            annotation = voc.read_annotation(voc.annotation_file(spec, image_id))
        except DatasetError as error:
            problems.error("annotation missing or malformed", str(error))
            continue
        objects = [(obj.name, obj.box, obj.difficult) for obj in annotation.objects]
        for name, _, _ in objects:
            if name not in (spec.classes or ()):
                problems.error(f"class '{name}' is not listed{nearest(name, spec.classes or ())}", image_id)
        images.append(_Image(image_id, path, annotation.width, annotation.height, objects))
    return images


def _coco_images(spec: DatasetSpec, problems: _Problems) -> list[_Image]:
    data = coco.read_json(spec)
    names = coco.categories(spec, data)
    missing = set(coco.missing_images(spec, data))
    images = {}
    for raw in data["images"]:
        name = raw["file_name"]
        if name in missing:
            problems.error(f"image missing from '{spec.image_root}'", name)
        if raw["id"] in images:
            problems.error("image id listed more than once", str(raw["id"]))
        path = None if name in missing else Path(str(spec.image_root)) / name
        images[raw["id"]] = _Image(name, path, raw["width"], raw["height"], [])
    ids = Counter(annotation["id"] for annotation in data["annotations"])
    if repeated := [str(i) for i, times in ids.items() if times > 1]:
        problems.error("annotation id stands twice", *repeated)
    for raw in data["annotations"]:
        label = f"annotation {raw['id']}"
        if raw["image_id"] not in images:
            problems.warn("annotation of an image that is not listed", label)
        elif raw["category_id"] not in names:
            problems.error(f"category_id {raw['category_id']!r} is not in 'categories'", label)
        elif len(raw["bbox"]) != 4:
            problems.error("annotation without a box of four numbers", label)
        else:
            x, y, w, h = raw["bbox"]
            entry = (names[raw["category_id"]], (x, y, x + w, y + h), bool(raw.get("iscrowd", 0)))
            images[raw["image_id"]].objects.append(entry)
    return list(images.values())


def _check_box(image: _Image, name: str, box: tuple[float, float, float, float], problems: _Problems) -> None:
    x0, y0, x1, y1 = box
    where = f"{image.label} {name} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) in {image.width}x{image.height}"
    if x1 < x0 or y1 < y0:
        problems.error("box with negative width or height", where)
    elif x1 == x0 or y1 == y0:
        problems.warn("box without area", where)
    elif x0 >= image.width or y0 >= image.height or x1 <= 0 or y1 <= 0:
        problems.error("box wholly outside its image", where)
    elif min(x0, y0, image.width - x1, image.height - y1) < -1:
        problems.warn("box reaching over the border by more than a pixel", where)


def _check_files(images: list[_Image], decode: bool, problems: _Problems) -> None:
    present = [(image, image.path) for image in images if image.path is not None]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda entry: _size(entry[1], decode), present)
        for (image, _), size in zip(present, _bar(results, "images", len(present)), strict=True):
            if isinstance(size, str):
                problems.error("image cannot be read", f"{image.label} ({size})")
            elif size != (image.width, image.height):
                problems.error(
                    "image size differs from its annotation",
                    f"{image.label} is {size[0]}x{size[1]}, annotated {image.width}x{image.height}",
                )


def _size(path: Path, decode: bool) -> tuple[int, int] | str:
    """(width, height) as a loader that obeys the EXIF orientation sees it, or why the file cannot be read."""
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return ImageOps.exif_transpose(image).size if image.getexif().get(0x0112, 1) != 1 else image.size
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        return str(error).splitlines()[0] if str(error) else type(error).__name__


def _bar(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """`items` under a progress bar if there are many."""
    with progress(total, what, "files", disable=total < 1000) as bar:
        for item in items:
            yield item
            bar.update()
