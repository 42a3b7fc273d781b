"""Validates the annotations of an instances json one by one and puts them into their images' records."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrain.runtime.wording import short
from transfer.data.boxes import check_box, size_fault
from transfer.data.faults import Faults
from transfer.data.keypoints import Keypoints, checked_points, continuous, outside
from transfer.data.segmentation import area, checked, is_number
from transfer.data.spec import Record

_NO_AREA = (
    "area is absent or 0, by which small, medium and large objects are told apart: taken here from the mask, or else "
    "from the box"
)
_NO_SHAPE = "object whose polygons all have fewer than three points, which training leaves out"

Reader = Callable[[Mapping[str, Any]], tuple[Record, str, str]]
"""Takes an annotation as it stands; returns what the record's is to have beside COCO's keys, and what is wrong with
which value (both empty if nothing is)."""


@dataclass(frozen=True)
class Truth:
    """Holds what evaluation needs beside the records, for A annotations in the json's order.

    Attributes:
        image: (A,) position of the annotation's image in the records.
        place: (A,) position in that record's annotations; -1 for an object that training leaves out.
        category: (A,) contiguous id.
        boxes: (A, 4) XYWH as the json has them, float64; `areas`: (A,) square pixels; `crowd`: (A,) bool.
        keypoints: (A, k, 3) x, y and visibility as the json has them, float64; None if the set has no keypoints.
    """

    image: np.ndarray
    place: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    keypoints: np.ndarray | None = None


def read_annotations(
    raw: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    order: Mapping[Any, int],
    contiguous: Mapping[Any, int],
    faulty: set[Any],
    keypoints: Keypoints | None,
    faults: Faults,
    more: Reader | None = None,
) -> Truth:
    """Puts the annotations into their images' records; returns what evaluation needs of them.

    Args:
        order: image id -> position in `records`.
        faulty: ids of images that were left out because of their own faults.
        keypoints: the keypoints that the categories name; if None, those of the annotations are not read.
        more: reads the keys that a format has beside COCO's.
    """
    _check_ids(raw, faults)
    spelt = {_spelt(number) for number in order}
    rows: dict[str, list[Any]] = defaultdict(list)
    strays = []
    for position, entry in enumerate(raw):
        number, category = entry["image_id"], entry["category_id"]
        if is_hashable(number) and number in faulty:
            continue
        if not is_hashable(number) or number not in order or isinstance(number, bool):
            label = _label(entry, position)
            if _spelt(number) in spelt:
                faults.error("image_id of another type than the image's id", f"{label}: {short(number)}")
            elif not isinstance(number, str) and not is_integer(number) and not is_number(number):
                faults.error("image_id that is neither a number nor a string", f"{label}: {short(number)}")
            strays.append(label)
            continue
        record = records[order[number]]
        try:
            if not is_hashable(category) or category not in contiguous or isinstance(category, bool):
                raise _Fault(f"category_id {short(category)} is not in 'categories'")
            annotation, box, size, stated = _annotation(entry, record)
            if keypoints is not None:
                points = _points(entry, record, len(keypoints), _label(entry, position), faults)
                annotation["keypoints"] = continuous(points)
                rows["keypoints"].append(points)
            if more is not None:
                values, what, value = more(entry)
                if what:
                    raise _Fault(what, value)
                annotation |= values
        except _Fault as fault:
            where, detail = f"{_label(entry, position)} of {os.path.basename(record['file_name'])}", fault.detail
            faults.error(fault.what, where + (detail and f": {detail}"))
            continue
        if not stated:
            faults.note(_NO_AREA)
        shaped = annotation.get("segmentation") != []
        if not shaped:
            faults.warn(_NO_SHAPE, _label(entry, position))
            check_box(annotation["bbox"], record["width"], record["height"], _label(entry, position), faults)
        rows["image"].append(order[number])
        rows["place"].append(len(record["annotations"]) if shaped else -1)
        rows["category"].append(contiguous[category])
        rows["boxes"].append(box)
        rows["areas"].append(size)
        rows["crowd"].append(annotation["iscrowd"])
        if shaped:
            annotation["category_id"] = contiguous[category]
            record["annotations"].append(annotation)
    if keypoints is None and any(entry.get("keypoints") for entry in raw):
        faults.note("annotations have keypoints that are not read, since their categories do not name them alike")
    if strays and len(strays) == len(raw):
        faults.error("no annotation is of an image that is listed", *strays)
    elif strays:
        faults.warn("annotation of an image that is not listed", *strays)
    return Truth(
        np.array(rows["image"], np.intp),
        np.array(rows["place"], np.intp),
        np.array(rows["category"], np.intp),
        np.array(rows["boxes"], np.float64).reshape(-1, 4),
        np.array(rows["areas"], np.float64),
        np.array(rows["crowd"], bool),
        None if keypoints is None else np.array(rows["keypoints"], np.float64).reshape(-1, len(keypoints), 3),
    )


def _spelt(value: Any) -> str:
    """Returns an id as text, in which the numbers 1 and 1.0 both equal the text "1"."""
    return str(int(value)) if isinstance(value, float) and value == value // 1 else str(value)


def _check_ids(raw: Sequence[Mapping[str, Any]], faults: Faults) -> None:
    """Checks that ids tell annotations apart; neither this module nor a metric uses their values."""
    ids = [entry["id"] for entry in raw if "id" in entry]
    if odd := [v for v in ids if not is_hashable(v) or v is None or isinstance(v, bool)]:
        faults.error("annotation id that is neither a number nor a string", *map(short, odd))
        return
    if twice := [v for v, times in Counter(ids).items() if times > 1]:
        faults.error("annotation id stands more than once; number them anew", *map(short, twice))
    plain = all(type(v) is int and 0 < v < 2**63 for v in ids)
    if raw and (len(ids) < len(raw) or not plain):
        faults.note(
            "annotation ids do not count from 1 (0, negative, very large, no integers or absent), which pycocotools "
            "takes for missing matches: they are numbered anew here"
        )


def _label(entry: Mapping[str, Any], position: int) -> str:
    return f"annotation {short(entry['id'])}" if "id" in entry else f"annotation at place {position}"


class _Fault(Exception):
    """Says what is wrong with one annotation; `detail` is the value in question."""

    def __init__(self, what: str, detail: str = ""):
        super().__init__(what)
        self.what, self.detail = what, detail


def _points(raw: Mapping[str, Any], record: Record, count: int, label: str, faults: Faults) -> list[float]:
    """Returns an object's keypoints as a flat list, unchanged; zeros if it has none.

    Raises:
        _Fault: something is wrong with the keypoints.
    """
    points, labelled, what, value = checked_points(raw, count)
    if what:
        raise _Fault(what, value)
    if raw.get("keypoints") is None:
        faults.note("objects without 'keypoints', whose points are taken as not labelled", label)
    if labelled and outside(points, record["width"], record["height"]):
        faults.warn("labelled keypoint outside its image, which training leaves out", label)
    return points


def _annotation(raw: Mapping[str, Any], record: Record) -> tuple[Record, list[float], float, bool]:
    """Returns an object's annotation, its box as in the json (XYWH), its area, and whether the json states the area.

    Raises:
        _Fault: something is wrong with the annotation.
    """
    box, height, width = raw["bbox"], record["height"], record["width"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise _Fault("bbox that is not four finite numbers [x, y, width, height]", short(box))
    if (crowd := raw.get("iscrowd", 0)) not in (0, 1) or isinstance(crowd, float):
        raise _Fault("iscrowd that is neither 0 nor 1", short(crowd))
    if raw.get("ignore", 0):
        raise _Fault("'ignore' is set, which is not supported; use iscrowd")
    segmentation, fault = checked(raw.get("segmentation"), height, width)
    if fault is not None:
        raise _Fault(fault)
    size = raw.get("area")
    if size is not None and (not is_number(size) or size < 0):
        raise _Fault("area that is no number of square pixels", short(size))
    if wrong := size_fault(box, size or 0, width, height):
        raise _Fault(wrong[0], short(wrong[1]))
    x, y, w, h = map(float, box)
    out: Record = {"bbox": [x, y, x + w, y + h], "category_id": -1}
    out["iscrowd"] = int(crowd)
    if segmentation is not None:
        out["segmentation"] = segmentation
    if stated := bool(size) or w <= 0 or h <= 0:
        return out, [x, y, w, h], float(size or 0), stated
    return out, [x, y, w, h], area(segmentation, height, width) if segmentation else w * h, stated


def is_hashable(value: Any) -> bool:
    return not isinstance(value, (list, dict))


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
