"""Checks COCO's masks, polygons or run lengths (RLE), against their image before anything uses them.

pycocotools checks nothing: it stretches a mask of another size, leaves memory as it was where run lengths do not fill
the image, and reads a polygon of pairs as something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pycocotools.mask as mask_util

FAR = 2.0  # how many image sizes a polygon may reach over the border; rasterising what lies further takes for ever


def is_number(value: Any) -> bool:
    """Returns whether a json value is a finite number; true, false and what no float can hold are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def checked(segmentation: Any, height: int, width: int) -> tuple[Any, str | None]:
    """Checks a json's segmentation against its image's size.

    Returns:
        The segmentation as records have it (polygons of three points or more, or compressed run lengths; None if there
        is none), and what is wrong with it, or None.
    """
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return None, None
    if isinstance(segmentation, Mapping):
        return _checked_rle(segmentation, height, width)
    if not isinstance(segmentation, list):
        return None, f"segmentation is a {type(segmentation).__name__}, neither polygons nor run lengths (RLE)"
    if is_number(segmentation[0]):
        return None, "segmentation is one flat list; expected a list of polygons [[x0, y0, x1, y1, ...], ...]"
    for polygon in segmentation:
        if not isinstance(polygon, list):
            return None, f"segmentation holds a {type(polygon).__name__}; expected polygons [x0, y0, x1, y1, ...]"
        if polygon and isinstance(polygon[0], (list, Mapping)):
            return None, "a polygon is a list of pairs; expected one flat list [x0, y0, x1, y1, ...]"
        if not all_numbers(polygon):
            return None, "a polygon holds what is no finite number"
        if len(polygon) % 2 and len(polygon) > 6:
            return None, "a polygon has an odd number of coordinates"
        for values, limit in ((polygon[0::2], width), (polygon[1::2], height)):
            if values and (min(values) < -FAR * limit or max(values) > (1 + FAR) * limit):
                return None, "a polygon lies far outside its image"
    return [polygon for polygon in segmentation if len(polygon) >= 6], None


def all_numbers(values: Sequence[Any]) -> bool:
    """Returns whether all are finite numbers, without a Python step for each, since COCO has a hundred million."""
    try:
        return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))
    except OverflowError:
        return False


def _checked_rle(rle: Mapping[str, Any], height: int, width: int) -> tuple[Any, str | None]:
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size)):
        return None, "run lengths (RLE) without a size [height, width]"
    if list(size) != [height, width]:
        return None, f"run lengths (RLE) of {size[1]}x{size[0]} in an image of {width}x{height} (width x height)"
    if isinstance(counts, (str, bytes)):
        runs = run_lengths(counts)
        if runs is None:
            return None, "run lengths (RLE) cannot be decoded"
    elif isinstance(counts, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in counts):
        runs = counts
    else:
        return None, "run lengths (RLE) without counts"
    if any(v < 0 for v in runs) or sum(runs) != height * width:
        return None, f"run lengths (RLE) cover {sum(runs)} pixels instead of {height * width}"
    if isinstance(counts, list):
        return mask_util.frPyObjects({"size": list(size), "counts": counts}, height, width), None
    return dict(rle), None


def run_lengths(counts: str | bytes) -> list[int] | None:
    """Decodes COCO's compressed run lengths; returns None if the text is not in that form.

    A number is written in groups of five bits, the lowest first, as characters from '0' on; bit 5 says that another
    group follows, and bit 4 of the last group is the sign. From the fourth number on, each is a difference to the
    number before the last.
    """
    if isinstance(counts, str) and not counts.isascii():
        return None
    text = counts.encode() if isinstance(counts, str) else counts
    runs: list[int] = []
    value, shift = 0, 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            return None
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return None if shift else runs


def area(segmentation: Any, height: int, width: int) -> float:
    """Returns the number of pixels that a checked segmentation covers."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return float(mask_util.area(segmentation))


def as_rle(segmentation: Any, height: int, width: int) -> Mapping[str, Any]:
    """Returns a checked segmentation as compressed run lengths of its image."""
    if isinstance(segmentation, Sequence):
        return mask_util.merge(mask_util.frPyObjects(list(segmentation), height, width))
    return segmentation
