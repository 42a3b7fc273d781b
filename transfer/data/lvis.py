"""Reads the LVIS layout: COCO's json with a long tail of classes, whose images are not annotated exhaustively.

An image says which classes are known to be absent (`neg_category_ids`) and which have objects that are not annotated
(`not_exhaustive_category_ids`); classes that it does not mention are not scored in it. Categories have a `frequency` in
training images: "r" (rare), "c" (common) or "f" (frequent). Images are COCO's; `coco_url` gives their folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from pretrain.runtime.wording import short
from transfer.data.coco import COCO, read_json
from transfer.data.coco_annotations import Truth
from transfer.data.faults import Faults
from transfer.data.format import Contents
from transfer.data.spec import DatasetError, DatasetSpec, few, one_line

FREQUENCIES = ("r", "c", "f")
MOST = 300  # detections per image that LVIS looks at
_NEEDED = {
    "images": {"id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"},
    "annotations": {"image_id", "category_id", "bbox"},
    "categories": {"id", "name", "frequency"},
}
_REMEDIES = dict.fromkeys(("neg_category_ids", "frequency"), "is it a json of COCO? Then give format: coco")


@dataclass(frozen=True, kw_only=True)
class LVISTruth(Truth):
    """Holds what evaluation needs beside COCO's truth.

    Attributes:
        absent: per record, contiguous ids of classes that are known to be absent.
        partial: per record, contiguous ids of classes with objects that are not annotated.
        frequency: per class, one of `FREQUENCIES`.
    """

    absent: tuple[tuple[int, ...], ...]
    partial: tuple[tuple[int, ...], ...]
    frequency: tuple[str, ...]


class LVIS(COCO):
    """Reads this layout; see the module."""

    name = "lvis"
    full_words = f"with more than {MOST} objects, of which LVIS' AP counts at most {MOST} detections"

    def full(self, truth: Truth, classes: int) -> list[int]:
        values, counts = np.unique(truth.image[~truth.crowd], return_counts=True)
        return [int(value) for value in values[counts > MOST]]

    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        return ("lvis",)

    def json(self, spec: DatasetSpec) -> dict[str, Any]:
        data = read_json(spec, _NEEDED, _REMEDIES)
        for image in data["images"]:
            image["file_name"] = _file_name(spec, image)
        return data

    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        data = self.json(spec)
        contents = self.contents(spec, data, faults)
        contiguous = {number: i for i, number in enumerate(contents.category_ids)}
        frequency = {category["id"]: category["frequency"] for category in data["categories"]}
        by_id = {image["id"]: image for image in data["images"] if not isinstance(image["id"], (list, dict))}
        listed: dict[str, list[tuple[int, ...]]] = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for record in contents.records:
            for key, found in listed.items():
                found.append(_classes(by_id[record["image_id"]], key, contiguous, frequency, faults))
        if odd := [
            f"{short(f)} of category {short(number)}" for number, f in frequency.items() if f not in FREQUENCIES
        ]:
            faults.error("frequency that is none of r, c, f", *odd)
        for record, absent in zip(contents.records, listed["neg_category_ids"], strict=True):
            if both := {a["category_id"] for a in record["annotations"]} & set(absent):
                names = few([contents.classes[i] for i in sorted(both)])
                faults.error("annotated class that neg_category_ids calls absent", f"{record['image_id']} ({names})")
        truth = LVISTruth(
            **{f.name: getattr(contents.truth, f.name) for f in fields(Truth)},
            absent=tuple(listed["neg_category_ids"]),
            partial=tuple(listed["not_exhaustive_category_ids"]),
            frequency=tuple(str(frequency[number]) for number in contents.category_ids),
        )
        return replace(contents, truth=truth)


def _file_name(spec: DatasetSpec, image: Mapping[str, Any]) -> Any:
    """Returns the folder and file at the end of `coco_url`, or else `file_name`.

    Raises:
        DatasetError: neither is given.
    """
    url = image.get("coco_url")
    if isinstance(url, str) and url.count("/") >= 1:
        return "/".join(url.split("/")[-2:])
    if "file_name" not in image:
        raise DatasetError(f"'{spec.json_file}': image {short(image['id'])} has neither coco_url nor file_name")
    return image["file_name"]


def _classes(
    image: Mapping[str, Any], key: str, contiguous: Mapping[Any, int], known: Collection[Any], faults: Faults
) -> tuple[int, ...]:
    """Returns contiguous ids of the classes that an image lists under a key, without those that `classes` leaves out.

    Args:
        known: ids of all the json's categories; what is none of them goes into `faults`.
    """
    values = image[key]
    if not isinstance(values, list):
        faults.error(f"{key} that is no list of category ids", f"image {one_line(image['id'])}: {short(values)}")
        return ()
    odd = [v for v in values if isinstance(v, (list, dict, bool)) or v not in known]
    if odd:
        label = f"image {one_line(image['id'])}: {few(map(short, odd))}"
        faults.error(f"{key} names what is not in 'categories'", label)
    return tuple(contiguous[v] for v in values if v not in odd and v in contiguous)
