"""The COCO layout: one instances json per split, images in a folder.

Boxes in the json are XYWH absolute pixels; here they are XYXY. Category ids in the json may have gaps; here they are
contiguous from 0, in the order of the json's ids.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util

from pretrain.runtime.collector import without_collection
from transfer.data.spec import DatasetError, DatasetSpec, Record, few, nearest

log = logging.getLogger(__name__)

CLASS_NAMES = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)
"""COCO 2017's, in the order of its category ids."""

_NEEDED = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "bbox"},
    "categories": {"id", "name"},
}


@without_collection()
def read_json(spec: DatasetSpec) -> dict[str, Any]:
    """The json with its three lists: images, annotations, categories.

    Raises:
        DatasetError: no such file, no json, or a list or a needed key of one of its entries is absent.
    """
    path = _json_file(spec)
    if not path.is_file():
        remedy = spec.remedy or "check `root` and `annotations` of its spec file"
        raise DatasetError(f"dataset '{spec.name}': annotation file '{path}' does not exist; {remedy}")
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"'{path}' is no json ({error}); copy or export it again") from None
    for key, needed in _NEEDED.items():
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DatasetError(f"'{path}' has no list '{key}'; expected COCO's instances format")
        for entry in data[key]:
            if absent := needed - entry.keys():
                raise DatasetError(f"'{path}': one of {key} lacks {', '.join(sorted(absent))}: {str(entry)[:120]}")
    return data


def categories(spec: DatasetSpec, data: dict[str, Any]) -> dict[int, str]:
    """Original category id -> name, ordered by id: position is the contiguous id.

    Raises:
        DatasetError: `spec.classes` is given and differs from the json's names in this order.
    """
    by_id = {c["id"]: c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])}
    names = tuple(by_id.values())
    if spec.classes is not None and names != spec.classes:
        wrong = [f"'{c}'{nearest(c, names)}" for c in spec.classes if c not in names]
        detail = f"not in the json: {few(wrong)}" if wrong else f"the json's order is {', '.join(names)}"
        raise DatasetError(
            f"dataset '{spec.name}': `classes` differ from the categories of '{_json_file(spec)}' by id; {detail}. "
            "Correct `classes`, or leave it out to take the json's."
        )
    return by_id


@without_collection()
def load(spec: DatasetSpec) -> list[Record]:
    """The split as standard records, ordered by image id; crowd regions included with iscrowd=1.

    `segmentation` is a list of polygons [x0, y0, x1, y1, ...] or a compressed RLE {"size": [h, w], "counts": bytes or
    str}. Polygons of fewer than three points are dropped, and an object of which none remains. Keypoints are not read.

    Raises:
        DatasetError: a missing json or image, an annotation with an unknown category or image, an empty box, or an
            annotation id that stands twice.
    """
    path, data = _json_file(spec), read_json(spec)
    contiguous = {cat_id: i for i, cat_id in enumerate(categories(spec, data))}
    images = {image["id"]: image for image in data["images"]}
    check_images_exist(spec, data)

    per_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for raw in data["annotations"]:
        per_image[raw["image_id"]].append(raw)
    times = Counter(raw["id"] for raw in data["annotations"])
    if twice := [number for number, count in times.items() if count > 1]:
        raise DatasetError(f"'{path}': annotation ids stand more than once ({few(twice)}); number them anew")
    if strays := [image_id for image_id in per_image if image_id not in images]:
        log.warning("'%s': annotations of %d images that it does not list: %s", path, len(strays), few(strays))

    dropped = 0
    records = []
    for image_id, image in sorted(images.items()):
        annotations = []
        for raw in per_image[image_id]:
            annotation = _annotation(raw, contiguous, path)
            dropped += annotation is None
            if annotation is not None:
                annotations.append(annotation)
        records.append(
            {
                "file_name": os.path.join(str(spec.image_root), image["file_name"]),
                "image_id": image_id,
                "height": image["height"],
                "width": image["width"],
                "annotations": annotations,
            }
        )
    if dropped:
        log.warning("'%s': left out %d objects whose polygons all have fewer than three points", path, dropped)
    return records


def _annotation(raw: dict[str, Any], contiguous: dict[int, int], path: Path) -> Record | None:
    """One object; None if it has polygons and none of them is valid."""
    where = f"'{path}': annotation {raw['id']} of image {raw['image_id']}"
    if raw["category_id"] not in contiguous:
        raise DatasetError(f"{where} has category_id {raw['category_id']}, which 'categories' does not list")
    if len(raw["bbox"]) != 4:
        raise DatasetError(f"{where} has bbox {raw['bbox']!r}; expected [x, y, width, height]")
    if raw.get("ignore", 0):
        raise DatasetError(f"{where} sets 'ignore', which is not supported; use iscrowd")
    x, y, w, h = raw["bbox"]
    out: Record = {
        "bbox": [float(x), float(y), float(x + w), float(y + h)],
        "category_id": contiguous[raw["category_id"]],
        "iscrowd": int(raw.get("iscrowd", 0)),
    }
    segmentation = raw.get("segmentation")
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        out["segmentation"] = segmentation
    elif segmentation:
        polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        if not polygons:
            return None
        out["segmentation"] = polygons
    return out


def check_images_exist(spec: DatasetSpec, data: dict[str, Any]) -> None:
    """Raises DatasetError naming the first images that are not in the folder (one listing per folder)."""
    if missing := missing_images(spec, data):
        raise DatasetError(
            f"dataset '{spec.name}': {len(missing)} of {len(data['images'])} images are missing from "
            f"'{spec.image_root}': {few(missing)}; {spec.remedy or 'copy them, or take them out of the json'}"
        )


def missing_images(spec: DatasetSpec, data: dict[str, Any]) -> list[str]:
    """File names in the json that do not exist under `image_root`, in the json's order."""
    listings: dict[str, set[str]] = {}
    missing = []
    for image in data["images"]:
        folder, name = os.path.split(image["file_name"])
        if folder not in listings:
            path = os.path.join(str(spec.image_root), folder)
            listings[folder] = set(os.listdir(path)) if os.path.isdir(path) else set()
        if name not in listings[folder]:
            missing.append(image["file_name"])
    return missing


def _json_file(spec: DatasetSpec) -> Path:
    assert spec.json_file is not None  # DatasetSpec checks it
    return spec.json_file
