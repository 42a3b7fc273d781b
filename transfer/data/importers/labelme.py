"""Reads labelme's annotations: one json per image, usually beside it, that names the image by `imagePath`.

Shapes have `label`, `shape_type`, `points` [[x, y], ...] and `group_id`: shapes of one label and one number there are
parts of one object. A rectangle has two opposite corners, a circle its centre and a point on it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.folders import read_tree
from pretrain.runtime.wording import short
from transfer.data import strict_json
from transfer.data.faults import Faults
from transfer.data.importers.importer import (
    BOX,
    ELLIPSE,
    POLYGON,
    Importer,
    Options,
    Part,
    Shape,
    Sheet,
    gathered,
    path_below,
)
from transfer.data.segmentation import is_number
from transfer.data.spec import DatasetError
from transfer.data.stems import IMAGE_SUFFIXES

_KINDS = {"rectangle": BOX, "polygon": POLYGON, "circle": ELLIPSE}


class Labelme(Importer):
    """Reads labelme's annotations; see the module."""

    name = "labelme"
    source = "a folder with a json per image, at any depth"

    def read(self, source: Path, options: Options, faults: Faults) -> list[Part]:
        if not source.is_dir():
            raise DatasetError(f"'{source}' is no folder; give the one that holds labelme's jsons")
        names = read_tree(source, (".json",)).files
        if not names:
            raise DatasetError(f"'{source}' holds no json; give the folder that holds labelme's")
        sheets = gathered(names, "labelme's jsons", lambda n: _sheet(source / n, source, options.images), faults)
        folder, known = options.images or source, {sheet.file_name for sheet in sheets}
        if len(sheets) == len(names):  # else it is not known whose jsons have faults
            for file_name in (name for name in read_tree(folder, IMAGE_SUFFIXES).files if name not in known):
                faults.note("images without a json, left out", str(folder / file_name))
        return [Part(folder, sheets)]


def _sheet(path: Path, source: Path, images: Path | None) -> Sheet:
    data = strict_json.read(path, DatasetError)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list) or "imagePath" not in data:
        raise DatasetError(f"'{path}' is no json of labelme, which has 'shapes' and 'imagePath'; move it elsewhere")
    file_name = _image(path, source, images, data["imagePath"])
    shapes = tuple(_shape(shape, f"{path} shape {i}") for i, shape in enumerate(data["shapes"], 1))
    width, height = data.get("imageWidth"), data.get("imageHeight")
    return Sheet(file_name, os.fspath(path), shapes, None if width is None or height is None else (width, height))


def _image(path: Path, source: Path, images: Path | None, name: Any) -> str:
    """Returns an image's path below the folder of images: relative to its json, else to the json's place in there.

    Raises:
        DatasetError: the image is in neither place.
    """
    try:
        return path_below(images or source, path.parent, name)
    except DatasetError as error:
        if images is not None:
            with contextlib.suppress(DatasetError):
                return path_below(images, images / path.parent.relative_to(source), name)
        raise DatasetError(f"'{path}': {error}") from None


def _shape(shape: Any, where: str) -> Shape:
    if not isinstance(shape, Mapping):
        raise DatasetError(f"'{where}' is {short(shape)}, not an object with keys")
    word, points, group = shape.get("shape_type", "polygon"), shape.get("points"), shape.get("group_id")
    if not isinstance(word, str) or not isinstance(group, (int, str, type(None))):
        raise DatasetError(f"'{where}': shape_type {short(word)} or group_id {short(group)} is none of labelme's")
    kind = _KINDS.get(word)
    if kind is None:
        return Shape(word, None, (), shape.get("label"), where)
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise DatasetError(f"'{where}': points are {short(points)}, not a list of [x, y]")
    values = [value for point in points for value in point]
    if kind is ELLIPSE and len(values) == 4 and all(map(is_number, values)):
        radius = math.hypot(values[2] - values[0], values[3] - values[1])
        values = [values[0], values[1], radius, radius, 0]
    return Shape(word, kind, values, shape.get("label"), where, group)
