"""The Pascal VOC layout: `ImageSets/Main/<split>.txt`, `Annotations/<id>.xml`, `JPEGImages/<id>.jpg`.

Boxes: an XML counts pixels from 1 and includes both ends, so xmin=1, xmax=W covers the whole width. Here a box is
XYXY in absolute coordinates, the same box being x0=0, x1=W: xmin and ymin lose 1, xmax and ymax stay.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from transfer.data.spec import DatasetError, DatasetSpec, Record, few, nearest

# In the order of Detectron2, which is the alphabetical order of the devkit.
CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp")


@dataclass(frozen=True)
class VOCObject:
    """One <object>; `box` is (x0, y0, x1, y1) in absolute coordinates (see the module)."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VOCAnnotation:
    """One XML: the image size it states, in pixels, and its objects in file order."""

    width: int
    height: int
    objects: tuple[VOCObject, ...]


def split_file(spec: DatasetSpec) -> Path:
    return spec.root / "ImageSets" / "Main" / f"{spec.split}.txt"


def annotation_file(spec: DatasetSpec, image_id: str) -> Path:
    return spec.root / "Annotations" / f"{image_id}.xml"


def read_split(spec: DatasetSpec) -> list[str]:
    """Image ids of the split, in file order.

    Raises:
        DatasetError: no such file, an empty one, or lines that hold more than an id.
    """
    path = split_file(spec)
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        hint = f"; the folder has {few(there, 6)}" if there else f"; nor does the folder '{path.parent}' hold any split"
        remedy = f". {spec.remedy}" if spec.remedy else ""
        raise DatasetError(f"dataset '{spec.name}': split file '{path}' does not exist{hint}{remedy}")
    lines = path.read_text(encoding="utf-8").splitlines()
    ids = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#", 1)[0].split()
        if len(words) > 1:
            raise DatasetError(
                f"'{path}' line {number}: '{line.strip()}' holds {len(words)} words; expected one image id"
            )
        ids += words
    if not ids:
        raise DatasetError(f"dataset '{spec.name}': split file '{path}' lists no image")
    return ids


def image_files(spec: DatasetSpec) -> dict[str, Path]:
    """Image id -> file, for every image in JPEGImages (one listing of the folder). `.jpg` wins over other suffixes."""
    folder = spec.root / "JPEGImages"
    if not folder.is_dir():
        remedy = spec.remedy or f"is root '{spec.root}' right?"
        raise DatasetError(f"dataset '{spec.name}': folder '{folder}' does not exist; {remedy}")
    found: dict[str, tuple[int, str]] = {}
    for name in os.listdir(folder):
        stem, suffix = os.path.splitext(name)
        if suffix in IMAGE_SUFFIXES:
            entry = (IMAGE_SUFFIXES.index(suffix), name)
            found[stem] = min(found.get(stem, entry), entry)
    return {stem: folder / name for stem, (_, name) in found.items()}


def read_annotation(path: Path) -> VOCAnnotation:
    """Parses one XML. Coordinates may have decimals; an object without <difficult> is not difficult.

    Raises:
        DatasetError: the file is missing, no XML, or lacks a tag; the message names it.
    """
    try:
        root = ET.parse(path).getroot()
    except FileNotFoundError:
        raise DatasetError(f"annotation '{path}' does not exist; the split lists its image") from None
    except ET.ParseError as error:
        raise DatasetError(f"annotation '{path}' is no well-formed XML: {error}") from None

    def number(node: ET.Element, tag: str) -> float:
        text = node.findtext(tag)
        try:
            return float(text)  # type: ignore[arg-type]  # None is caught as the missing tag it is
        except (TypeError, ValueError):
            raise DatasetError(f"annotation '{path}': <{tag}> in <{node.tag}> is {text!r}, not a number") from None

    objects: list[VOCObject] = []
    for node in root.findall("object"):
        box = node.find("bndbox")
        name = node.findtext("name", "").strip()
        if box is None or not name:
            raise DatasetError(f"annotation '{path}': object {len(objects) + 1} lacks <name> or <bndbox>")
        x0, y0, x1, y1 = (number(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        difficult = number(node, "difficult") if node.find("difficult") is not None else 0
        objects.append(VOCObject(name, (x0 - 1, y0 - 1, x1, y1), bool(difficult)))
    width, height = number(root, "size/width"), number(root, "size/height")
    return VOCAnnotation(int(width), int(height), tuple(objects))


def load(spec: DatasetSpec) -> list[Record]:
    """The split as standard records, difficult objects included; `image_id` is the VOC id, a string.

    Raises:
        DatasetError: a missing split file, XML or image, or a class that `spec.classes` does not list.
    """
    ids, files = read_split(spec), image_files(spec)
    if missing := [image_id for image_id in ids if image_id not in files]:
        raise DatasetError(
            f"dataset '{spec.name}': {len(missing)} of {len(ids)} images are missing from "
            f"'{spec.root / 'JPEGImages'}': {few(missing)}; {spec.remedy or 'copy them, or take them out of the split'}"
        )
    index = {name: i for i, name in enumerate(spec.classes or ())}
    records = []
    for image_id in ids:
        path = annotation_file(spec, image_id)
        annotation = read_annotation(path)
        annotations = []
        for obj in annotation.objects:
            if obj.name not in index:
                raise DatasetError(
                    f"'{path}': class '{obj.name}' is not among the {len(index)} classes of dataset "
                    f"'{spec.name}'{nearest(obj.name, index)}"
                )
            annotations.append(
                {
                    "bbox": list(obj.box),
                    "category_id": index[obj.name],
                    "iscrowd": 0,
                    "difficult": int(obj.difficult),
                }
            )
        records.append(
            {
                "file_name": str(files[image_id]),
                "image_id": image_id,
                "height": annotation.height,
                "width": annotation.width,
                "annotations": annotations,
            }
        )
    return records
