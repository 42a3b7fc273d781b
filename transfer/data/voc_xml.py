"""Reads Pascal VOC's annotations: one XML per image.

An XML counts pixels from 1 and includes both ends of a box, so xmin=1, xmax=W covers the whole width. Here a box is
XYXY in absolute coordinates, so the same box is x0=0, x1=W: xmin and ymin lose 1, xmax and ymax stay.
"""

from __future__ import annotations

import codecs
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.files import read_regular
from transfer.data.spec import DatasetError, one_line
from transfer.data.text_files import decoded

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")


@dataclass(frozen=True)
class VOCObject:
    """Holds one <object>; `box` is (x0, y0, x1, y1) in absolute coordinates (see the module)."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VOCAnnotation:
    """Holds one XML: the image size that it states, in pixels, and its objects in file order."""

    width: int
    height: int
    objects: tuple[VOCObject, ...]


def read_annotation(path: Path) -> VOCAnnotation:
    """Parses one XML. Coordinates may have decimals; an object without <difficult> is not difficult.

    Raises:
        DatasetError: the file is missing, is not XML or lacks a tag, or a value is not a number; the message names it.
    """
    root = _parse(path)

    def number(node: ET.Element, tag: str) -> float:
        text = node.findtext(tag)
        try:
            value = float(text)  # type: ignore[arg-type]  # None is caught as the missing tag it is
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            given = None if text is None else one_line(text)
            raise DatasetError(f"annotation '{path}': <{tag}> in <{node.tag}> is {given!r}, not a number")
        return value

    objects: list[VOCObject] = []
    for node in root.findall("object"):
        box = node.find("bndbox")
        name = node.findtext("name", "").strip()
        if box is None or not name:
            raise DatasetError(f"annotation '{path}': object {len(objects) + 1} lacks <name> or <bndbox>")
        x0, y0, x1, y1 = corners = tuple(number(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        if max(corners) <= 1 and any(v != int(v) for v in corners):
            raise DatasetError(
                f"annotation '{path}': the box of object {len(objects) + 1} ends at ({x1:g}, {y1:g}): normalised "
                "coordinates? Give pixels, counted from 1"
            )
        difficult = number(node, "difficult") if node.find("difficult") is not None else 0
        if difficult not in (0, 1):
            raise DatasetError(f"annotation '{path}': <difficult> in <object> is {difficult:g}; give 0 or 1")
        objects.append(VOCObject(name, (x0 - 1, y0 - 1, x1, y1), bool(difficult)))
    width, height = (number(root, f"size/{tag}") for tag in ("width", "height"))
    if not (width >= 1 and height >= 1 and width == int(width) and height == int(height)):
        raise DatasetError(f"annotation '{path}': <size> is {width:g}x{height:g}; give the image's width and height")
    return VOCAnnotation(int(width), int(height), tuple(objects))


def _parse(path: Path) -> ET.Element:
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise DatasetError(f"annotation '{path}' does not exist; the split lists its image") from None
    except OSError as error:
        raise DatasetError(f"annotation '{path}' cannot be read: {error.strerror}") from None
    declared = _DECLARED.match(content)
    try:
        if declared is not None and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = content[declared.end() :].decode(declared.group(1).decode())
        else:
            text = re.sub(r"^\s*<\?xml[^>]*\?>", "", decoded(path, content))
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DatasetError(f"annotation '{path}' declares a document type; VOC's have none, and it is not read")
        return ET.fromstring(text)
    except (LookupError, UnicodeDecodeError) as error:
        raise DatasetError(f"annotation '{path}' is not in the encoding that it declares: {error}") from None
    except (ET.ParseError, ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"annotation '{path}' is no well-formed XML: {error}") from None
