"""Reads the DensePose layout: COCO's json, with points of people on the surface of a body.

An annotated object has `dp_x`, `dp_y` (its points' places in its box, 0 to 255 from side to side), `dp_I` (the part of
the surface that each is on, of 24), `dp_U`, `dp_V` (the place on that part, 0 to 1), and `dp_masks` (14 coarse body
parts as run lengths of the box at 256 x 256, or [] for an unseen part). Records keep these values unchanged under the
same names, as DensePose's own mapper reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pretrain.runtime.wording import short
from transfer.data.coco import COCO
from transfer.data.faults import Faults
from transfer.data.format import Contents
from transfer.data.segmentation import all_numbers, checked, is_number
from transfer.data.spec import DatasetSpec, Record

PARTS, COARSE_PARTS = 24, 14  # of the surface, of the body
SIDE = 256  # pixels of a coarse part's mask
_LAST = math.nextafter(SIDE, 0)  # within pixel 255, which reaches to the far side of the box
RANGES = {"dp_x": (0, _LAST), "dp_y": (0, _LAST), "dp_I": (1, PARTS), "dp_U": (0, 1), "dp_V": (0, 1)}
"""The lists of an object's points, with what their values may be."""
MASKS = "dp_masks"
_IGNORED = "ignore_regions_x"  # PoseTrack's


class DensePoseCOCO(COCO):
    """Reads this layout; see the module. It does not read keypoints, which the official files also have."""

    name = "densepose"

    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        return ("coco", "densepose")

    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        data = self.json(spec)
        if regions := [short(image["id"]) for image in data["images"] if image.get(_IGNORED)]:
            faults.error(f"images with {_IGNORED}, which is not supported; leave them out", *regions)
        if not any(key in entry for entry in data["annotations"] for key in RANGES):
            faults.unscorable(f"no annotation has {', '.join(RANGES)}: is it a json of COCO? Then give format: coco")
        for category in data["categories"]:
            category.pop("keypoints", None)
        for entry in data["annotations"]:
            entry.pop("keypoints", None)
            if all(entry.get(key) == [] for key in RANGES):
                faults.note("objects with lists of no point, which count as without DensePose", short(entry.get("id")))
                for key in RANGES:
                    del entry[key]
            if _shapeless(entry.get("segmentation")):  # which DensePose trains on by its box and points
                del entry["segmentation"]
        _number_anew(data["annotations"], faults)
        return self.contents(spec, data, faults, checked_points)


def has_points(annotation: Mapping[str, Any]) -> bool:
    """Returns whether an annotation of a record has points of DensePose."""
    return "dp_x" in annotation


def checked_points(annotation: Mapping[str, Any]) -> tuple[Record, str, str]:
    """Checks that an annotation's points have allowed values.

    Returns:
        What a record keeps of the points (nothing if there are none), what is wrong, and the wrong value (both empty
        if nothing is wrong).
    """
    given = [key for key in RANGES if key in annotation]
    if not given:
        return {}, "", ""
    if lacking := [key for key in (*RANGES, MASKS) if key not in annotation]:
        return {}, "points of DensePose that are incomplete", f"{', '.join(given)} without {', '.join(lacking)}"
    for key, (low, high) in RANGES.items():
        what, value = _fault(annotation[key], low, high)
        if what:
            return {}, f"{key} {what}", value
    if len(set(lengths := [len(annotation[key]) for key in RANGES])) > 1:
        return {}, f"lists of different lengths in {', '.join(RANGES)}", ", ".join(map(str, lengths))
    if odd := [v for v in annotation["dp_I"] if v != int(v)]:
        return {}, "dp_I that holds what is no number of a part", short(odd[0])
    masks, what, value = _masks(annotation[MASKS])
    return {**{key: annotation[key] for key in RANGES}, MASKS: masks}, what, value


def _fault(values: Any, low: float, high: float) -> tuple[str, str]:
    """Returns what is wrong with one of the lists, and the wrong value."""
    if not isinstance(values, list) or not values:
        return "that is no list of numbers, one per point", short(values)
    if not all_numbers(values):
        return "that holds what is no finite number", short(next((v for v in values if not is_number(v)), values))
    if odd := [v for v in (min(values), max(values)) if not low <= v <= high]:
        return f"outside of {int(low)} to {int(high)}", short(odd[0])
    return "", ""


def _masks(masks: Any) -> tuple[list[Any], str, str]:
    """Returns the masks of the coarse parts, compressed, what is wrong with one of them, and the wrong value."""
    if not isinstance(masks, list) or len(masks) != COARSE_PARTS:
        length = f"{len(masks)} entries" if isinstance(masks, list) else short(masks)
        return [], f"{MASKS} that is no list of {COARSE_PARTS} masks", length
    found: list[Any] = []
    for part, mask in enumerate(masks, 1):
        if not mask:
            found.append([])
            continue
        if not isinstance(mask, Mapping):
            return [], f"{MASKS} that holds neither run lengths (RLE) nor []", f"part {part}: {short(mask)}"
        rle, fault = checked(mask, SIDE, SIDE)
        if fault:
            return [], f"{MASKS}: {fault}", f"part {part}"
        found.append(rle)
    return found, "", ""


def _shapeless(segmentation: Any) -> bool:
    """Returns whether there are polygons, but none of three points or more."""
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and all(isinstance(p, list) and all_numbers(p) and len(p) < 6 for p in segmentation)
    )


def _number_anew(annotations: Sequence[dict[str, Any]], faults: Faults) -> None:
    """Gives new numbers to repeated ids, of which the official files have a few."""
    numbered = [entry for entry in annotations if type(entry.get("id")) is int]
    fresh = max((entry["id"] for entry in numbered), default=0)
    seen: set[int] = set()
    repeated = []
    for entry in numbered:
        if entry["id"] in seen:
            repeated.append(str(entry["id"]))
            fresh += 1
            entry["id"] = fresh
        seen.add(entry["id"])
    if repeated:
        faults.note("annotation ids that stand twice, as a few do in the official files, are numbered anew", *repeated)
