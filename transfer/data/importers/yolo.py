"""Reads YOLO's labels, as Ultralytics and Roboflow lay them out: a data.yaml, images/ and labels/.

A line is `class x y width height` (a box by its centre) or `class x0 y0 x1 y1 x2 y2 ...` (a polygon), numbers being
shares of the image's width and height. Images without a file of labels, or with an empty one, have no object.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.files import read_regular
from pretrain.runtime.folders import read_tree
from pretrain.runtime.strict_yaml import load_yaml
from pretrain.runtime.wording import short
from transfer.data.faults import Faults
from transfer.data.importers.importer import (
    BOX,
    POLYGON,
    Importer,
    Options,
    Part,
    Shape,
    Sheet,
    gathered,
    image_by_stem,
)
from transfer.data.spec import DatasetError, path_in
from transfer.data.text_files import decoded

_SPLITS = ("train", "val", "valid", "test")


class YOLO(Importer):
    """Reads YOLO's labels; see the module."""

    name = "yolo"
    source = "a data.yaml, which names the classes and the folders of images"
    options = ()

    def read(self, source: Path, options: Options, faults: Faults) -> list[Part]:
        data = load_yaml(source, numbered=True)
        if (points := data.get("kpt_shape")) is not None:  # a line then reads like a polygon's
            raise DatasetError(
                f"'{source}': kpt_shape is {short(points)}, so that its labels have keypoints, which are not read; "
                "export them as COCO's json"
            )
        classes = _classes(source, data.get("names"))
        root = source.parent
        if (path := data.get("path")) is not None:
            root = path_in(root, _text(source, "path", path))
        splits = [name for name in _SPLITS if data.get(name)]
        if not splits:
            raise DatasetError(f"'{source}' names no folder of images; expected {', '.join(_SPLITS)}")
        parts = []
        for split in splits:
            folder = _folder(source, root, split, _text(source, split, data[split]))
            parts.append(Part(folder, _sheets(folder, classes, faults), split, classes))
        return parts


def _text(source: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DatasetError(f"'{source}': {key} is {short(value)}; give one folder")
    return value


def _classes(source: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise DatasetError(f"'{source}': keys of `names` are {short(list(names))}, not 0, 1, 2, ...")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(type(n) in (str, int) for n in names):  # bool: yes, no
        raise DatasetError(
            f"'{source}': `names` is {short(names)}; expected a list of the classes' names, in quotes what YAML reads "
            "as something else, such as yes, no and null"
        )
    return tuple(map(str, names))


def _folder(source: Path, root: Path, split: str, text: str) -> Path:
    """Returns the folder of images; Roboflow writes its path as if the data.yaml lay one folder deeper."""
    for candidate in (path_in(root, text), path_in(root, text.removeprefix("../"))):
        if candidate.is_dir():
            return candidate
    raise DatasetError(
        f"'{source}': folder '{path_in(root, text)}' of {split} does not exist; check `path` and `{split}`"
    )


def _sheets(folder: Path, classes: tuple[str, ...], faults: Faults) -> tuple[Sheet, ...]:
    parts = list(Path(os.path.abspath(folder)).parts)
    if "images" not in parts:
        raise DatasetError(
            f"folder '{folder}' is in no folder called `images`: YOLO's labels lie in `labels` beside it, at the same "
            "places; move images and labels there"
        )
    last = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:last], "labels", *parts[last + 1 :])
    images = image_by_stem(folder, faults)
    if not images:
        raise DatasetError(f"folder '{folder}' holds no image; remove its line from data.yaml, or add its images")
    there = set(read_tree(labels, (".txt",)).files) if labels.is_dir() else set()
    if not there:
        raise DatasetError(f"folder '{labels}' holds no labels")

    def sheet(stem: str) -> Sheet:
        path = f"{stem}.txt"
        return Sheet(images[stem], str(labels / path), _shapes(labels / path, classes) if path in there else ())

    for stem, image in images.items():
        if f"{stem}.txt" not in there:
            faults.note("images without a label file, which YOLO takes for images without objects", str(folder / image))
    sheets = gathered(list(images), f"labels of {folder}", sheet, faults)
    if lonely := sorted(there - {f"{stem}.txt" for stem in images} - {"classes.txt"}):
        faults.error(f"labels in '{labels}' without an image in '{folder}'", *lonely)
    return sheets


def _shapes(path: Path, classes: tuple[str, ...]) -> tuple[Shape, ...]:
    shapes = []
    for number, line in enumerate(decoded(path, read_regular(path)).splitlines(), 1):
        where, words = f"{path} line {number}", line.split()
        if not words:
            continue
        try:
            index, *values = int(words[0]), *map(float, words[1:])
        except ValueError:
            raise DatasetError(f"'{where}': {short(line)} are not numbers, the first one a class's") from None
        if not 0 <= index < len(classes):
            raise DatasetError(f"'{where}': class {short(index)}, but there are {len(classes)}, from 0 on")
        if len(values) == 4:
            x, y, w, h = values
            corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            shapes.append(Shape("box", BOX, corners, classes[index], where, scaled=True))
        elif len(values) >= 6 and len(values) % 2 == 0:
            shapes.append(Shape("polygon", POLYGON, values, classes[index], where, scaled=True))
        else:
            raise DatasetError(
                f"'{where}': {len(values)} numbers behind the class; a box has 4, a polygon 6, 8, 10, ..."
            )
    return tuple(shapes)
