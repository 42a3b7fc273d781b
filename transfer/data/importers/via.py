"""Reads the VGG Image Annotator's annotations (versions 1 and 2): a project, or annotations as json or CSV.

Regions have `shape_attributes` (`name`, and numbers by that name) and `region_attributes`, one of which is the class.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.files import read_regular
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
    listed,
    path_below,
)  # fmt: skip
from transfer.data.segmentation import is_number
from transfer.data.spec import DatasetError, few, nearest
from transfer.data.text_files import decoded

_KINDS = {
    "rect": (BOX, ("x", "y", "width", "height")),
    "circle": (ELLIPSE, ("cx", "cy", "r", "r")),
    "ellipse": (ELLIPSE, ("cx", "cy", "rx", "ry")),
}
_Region = tuple[Any, Any, str]  # its shape, its attributes, where it stands


class VIA(Importer):
    """Reads VIA's annotations; see the module."""

    name = "via"
    source = "a project's json, or its annotations exported as json or CSV"
    options = ("images", "attribute")

    def read(self, source: Path, options: Options, faults: Faults) -> list[Part]:
        folder = options.images or source.parent
        images = _from_csv(source) if source.suffix.lower() == ".csv" else _from_json(source)
        if not images:
            raise DatasetError(f"'{source}' lists no image")
        attribute = _attribute(source, options.attribute, [region for regions in images.values() for region in regions])
        sheets = []
        for name, regions in images.items():
            try:
                file_name = path_below(folder, folder, name)
                shapes = tuple(_shape(region, attribute) for region in regions)
            except DatasetError as error:
                faults.error(f"'{source}': {error}" if str(source) not in str(error) else str(error))
                continue
            sheets.append(Sheet(file_name, f"{source} {file_name}", shapes))
        return [Part(folder, tuple(sheets))]


def _from_json(source: Path) -> dict[str, list[_Region]]:
    data = strict_json.read(source, DatasetError)
    if isinstance(data, dict) and {"project", "file", "metadata"} <= data.keys():
        raise DatasetError(f"'{source}' is a project of VIA 3; draw or open it in VIA 2, or export COCO's json")
    if isinstance(data, dict):
        data = data.get("_via_img_metadata", data)
    if not isinstance(data, dict) or not all(isinstance(v, dict) and "regions" in v for v in data.values()):
        raise DatasetError(f"'{source}' is no json of VIA: not every image has 'regions'")
    images: dict[str, list[_Region]] = {}
    for key, image in data.items():
        name, regions = image.get("filename"), image["regions"]
        if not isinstance(name, str) or name in images:
            raise DatasetError(
                f"'{source}': image {short(key)} has the filename {short(name)}, which is none, or twice"
            )
        if isinstance(regions, dict):  # VIA 1
            regions = list(regions.values())
        if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
            raise DatasetError(f"'{source}': regions of {short(name)} are {short(regions)}, not a list of objects")
        images[name] = [
            (region.get("shape_attributes"), region.get("region_attributes"), f"{source} {name} region {i}")
            for i, region in enumerate(regions)
        ]
    return images


def _from_csv(source: Path) -> dict[str, list[_Region]]:
    text = decoded(source, read_regular(source)).removeprefix("\ufeff")
    images: dict[str, list[_Region]] = {}
    try:
        for number, row in enumerate(_rows(source, text), 2):
            regions = images.setdefault(row["filename"], [])
            shape = json.loads(row["region_shape_attributes"] or "{}")
            if shape != {}:  # an image without regions has one row
                regions.append((shape, json.loads(row["region_attributes"] or "{}"), f"{source} row {number}"))
    except (csv.Error, ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{source}' is no CSV of VIA: {error}; export json instead") from None
    return images


def _rows(source: Path, text: str) -> Iterator[dict[str, str]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = [name.strip().lstrip("#") for name in next(rows, [])]
    needed = ("filename", "region_shape_attributes", "region_attributes")
    if absent := [name for name in needed if name not in header]:
        raise DatasetError(f"'{source}' is no CSV of VIA: its first row lacks {', '.join(absent)}")
    for row in rows:
        if row and len(row) != len(header):
            raise DatasetError(f"'{source}': a row has {len(row)} fields, the first one {len(header)}")
        if row:
            yield dict(zip(header, row, strict=True))


def _attribute(source: Path, wanted: str | None, regions: list[_Region]) -> str:
    """Returns the name of the attribute that holds the class."""
    counts = Counter(name for _, attributes, _ in regions if isinstance(attributes, Mapping) for name in attributes)
    if wanted is not None:
        if regions and wanted not in counts:
            raise DatasetError(f"'{source}': no region has the attribute '{wanted}'{nearest(wanted, counts)}")
        return wanted
    if regions and len(counts) != 1:
        known = f"regions have {few(counts, 6)}" if counts else "no region has any"
        raise DatasetError(f"'{source}': which attribute is the class? {known}; name it by --attribute")
    return next(iter(counts), "")


def _shape(region: _Region, attribute: str) -> Shape:
    shape, attributes, where = region
    if not isinstance(shape, Mapping) or not isinstance(shape.get("name"), str):
        raise DatasetError(f"'{where}': shape_attributes are {short(shape)}, without a name")
    label = attributes.get(attribute) if isinstance(attributes, Mapping) else None
    if isinstance(label, Mapping):  # of check boxes, those that are ticked
        ticked = [name for name, on in label.items() if on]
        label = ticked[0] if len(ticked) == 1 else label
    word = shape["name"]
    if word == "polygon":
        xs, ys = (listed(shape.get(f"all_points_{axis}")) for axis in "xy")
        if len(xs) != len(ys):
            raise DatasetError(f"'{where}': {len(xs)} numbers in all_points_x, {len(ys)} in all_points_y")
        return Shape(word, POLYGON, [v for point in zip(xs, ys, strict=True) for v in point], label, where)
    kind, keys = _KINDS.get(word, (None, ()))
    values: list[Any] = [shape.get(key) for key in keys]
    if kind is BOX and all(map(is_number, values)):
        x, y, width, height = values
        values = [x, y, x + width, y + height]
    if kind is ELLIPSE:
        values.append(shape.get("theta", 0))
    return Shape(word, kind, values, label, where)
