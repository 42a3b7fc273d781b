"""The COCO layout: one instances json per split, images in a folder.

Boxes in the json are XYWH absolute pixels; here they are XYXY. Category ids in the json may have gaps; here they are
contiguous from 0, in the order of the json's ids. Everything that the json says is validated here, once: what loads can
be trained on, and what is scorable is scored as pycocotools scores it with all ids counted from 1.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pretrain.runtime.collector import without_collection
from pretrain.runtime.wording import short
from transfer.data import strict_json
from transfer.data.boxes import check_box
from transfer.data.faults import Faults
from transfer.data.format import Contents, Format
from transfer.data.segmentation import area, checked, is_number
from transfer.data.spec import DatasetError, DatasetSpec, Names, Record, Text, few, nearest, one_line, path_in

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
    "annotations": {"image_id", "category_id", "bbox"},
    "categories": {"id", "name"},
}
_NO_AREA = (
    "area is absent or 0, by which small, medium and large objects are told apart: taken here from the mask, or else "
    "from the box"
)
_NO_SHAPE = "object whose polygons all have fewer than three points, which training leaves out"
MOST = 100  # detections per image and class that COCO's AP looks at
_LARGEST_SIDE = 1_000_000  # pixels; what is beyond is a mistake


class _Split(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: Text
    annotations: Text


class COCOKeys(BaseModel):
    """A spec file's keys; see datasets/README.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    root: Text
    classes: Names | None = None
    splits: dict[Text, _Split] = Field(min_length=1)


@dataclass(frozen=True)
class Truth:
    """What evaluation needs of A annotations beside the records, in the json's order.

    Attributes:
        image: (A,) position of the annotation's image in the records.
        place: (A,) position in that record's annotations; -1 for an object that training leaves out.
        category: (A,) contiguous id.
        boxes: (A, 4) XYWH as the json has them, float64; `areas`: (A,) square pixels; `crowd`: (A,) bool.
    """

    image: np.ndarray
    place: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


class COCO(Format):
    """See the module."""

    name = "coco"
    keys = COCOKeys
    set_aside = "crowd"
    masks = True
    full_words = f"with more than {MOST} objects of a class, of which COCO's AP counts at most {MOST} detections"

    def specs(self, keys: COCOKeys, file: Path) -> list[DatasetSpec]:
        root = path_in(file.parent, keys.root)
        classes = None if keys.classes is None else tuple(keys.classes)
        return [
            DatasetSpec(
                f"{keys.name}_{name}", self.name, root, name, classes,
                image_root=path_in(root, split.images), json_file=path_in(root, split.annotations),
            )
            for name, split in keys.splits.items()
        ]  # fmt: skip

    def check_spec(self, spec: DatasetSpec) -> None:
        if spec.image_root is None or spec.json_file is None:
            raise DatasetError(f"dataset '{spec.name}': a COCO dataset needs an image folder and a json file")

    def place(self, spec: DatasetSpec) -> Path:
        assert spec.json_file is not None  # check_spec
        return spec.json_file

    def is_present(self, spec: DatasetSpec) -> bool:
        return self.place(spec).is_file() and _image_root(spec).is_dir()

    def sources(self, spec: DatasetSpec) -> Iterable[Path]:
        return (self.place(spec), _image_root(spec))

    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        return ("coco",)

    def json(self, spec: DatasetSpec) -> dict[str, Any]:
        """Reads the json, in the form of COCO's; see `read_json`."""
        data = read_json(spec)
        if data["images"] and all("neg_category_ids" in image for image in data["images"]):
            raise DatasetError(
                f"'{spec.json_file}' is a json of LVIS, which COCO's AP would score wrongly (its images are not "
                "annotated exhaustively); give format: lvis"
            )
        return data

    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        names = [str(image.get("file_name")) for image in self.json(spec)["images"]]
        return self.place(spec).read_bytes(), [(name, _image_root(spec) / name.replace("\0", "")) for name in names]

    def full(self, truth: Truth, classes: int) -> list[int]:
        """Positions of images with more objects than the protocol looks at detections."""
        of_class = (truth.image * classes + truth.category)[~truth.crowd]
        values, counts = np.unique(of_class, return_counts=True)
        return [int(value) // classes for value in values[counts > MOST]]

    @without_collection()
    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        return self.contents(spec, self.json(spec), faults)

    def contents(self, spec: DatasetSpec, data: Mapping[str, Any], faults: Faults) -> Contents:
        """Validates what the json says; see `read`."""
        names = categories(spec, data, faults)
        contiguous = {number: i for i, number in enumerate(names)}
        images = _images(spec, data, faults)
        records: list[Record] = []
        order: dict[Any, int] = {}
        for number, image in sorted(images.items()):
            order[number] = len(records)
            records.append(
                {
                    "file_name": os.path.join(str(spec.image_root), image["file_name"]),
                    "image_id": number,
                    "height": int(image["height"]),
                    "width": int(image["width"]),
                    "annotations": [],
                }
            )
        faulty = {image["id"] for image in data["images"] if _hashable(image["id"])} - set(images)
        truth = _annotations(data["annotations"], records, order, contiguous, faulty, faults)
        lost = set(_missing_images(spec, images.values()))
        missing = frozenset(order[number] for number, image in images.items() if image["file_name"] in lost)
        for name in sorted(lost):
            faults.error(f"image missing from '{spec.image_root}'", one_line(name))
        if not data["images"]:
            faults.error("no image is listed")
        if full := [os.path.basename(records[i]["file_name"]) for i in self.full(truth, len(names))]:
            faults.note(f"images {self.full_words}: even perfect detections do not reach 100", *full)
        left_out = int((truth.place < 0).sum())
        return Contents(tuple(names.values()), tuple(names), records, missing, truth, left_out)


def _image_root(spec: DatasetSpec) -> Path:
    assert spec.image_root is not None  # check_spec
    return spec.image_root


@without_collection()
def read_json(spec: DatasetSpec, needed: Mapping[str, set[str]] = _NEEDED) -> dict[str, Any]:
    """Reads the json with its three lists: images, annotations, categories.

    Args:
        needed: list -> the keys that each of its entries must have.

    Raises:
        DatasetError: no such file, no json, or a list or a needed key of one of its entries is absent.
    """
    path = spec.json_file
    assert path is not None  # check_spec
    if not path.is_file():
        remedy = spec.remedy or "check `root` and `annotations` of its spec file"
        raise DatasetError(f"dataset '{spec.name}': annotation file '{path}' does not exist; {remedy}")
    data = strict_json.read(path, DatasetError)
    for key, keys in needed.items():
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DatasetError(f"'{path}' has no list '{key}'; expected COCO's instances format")
        for entry in data[key]:
            if not isinstance(entry, dict):
                raise DatasetError(f"'{path}': one of {key} is {short(entry)}, not an object with keys")
            if absent := keys - entry.keys():
                raise DatasetError(f"'{path}': one of {key} lacks {', '.join(sorted(absent))}: {short(entry)}")
    return data


def categories(spec: DatasetSpec, data: Mapping[str, Any], faults: Faults) -> dict[int | str, str]:
    """Original category id -> name, ordered by id: position is the contiguous id.

    Raises:
        DatasetError: `spec.classes` is given and differs from the json's names in this order; or ids or names that
            cannot be used, which leave no class to go on with.
    """
    path = spec.json_file
    found = [(c["id"], c["name"]) for c in data["categories"]]
    if not found:
        raise DatasetError(f"'{path}' lists no category; give it the classes of its objects")
    kinds = {type(number) for number, _ in found}
    if kinds not in ({int}, {str}):
        odd = next(number for number, _ in found if type(number) is not int)
        raise DatasetError(f"'{path}': category id {short(odd)}; ids must be integers, or all of them strings")
    for what, values in (("category id", [n for n, _ in found]), ("category name", [name for _, name in found])):
        if what == "category name" and (odd := [v for v in values if not isinstance(v, str) or not v.strip()]):
            raise DatasetError(f"'{path}': category name {short(odd[0])}; give every category a name")
        if twice := [v for v, times in Counter(values).items() if times > 1]:
            raise DatasetError(f"'{path}': {what} {few(map(short, twice))} stands twice; rename or merge them")
    by_id: dict[int | str, str] = dict(sorted(found))
    names = tuple(by_id.values())
    if odd := [name for name in names if not name.isprintable()]:
        faults.error("category name with control characters", *map(one_line, odd))
    if spec.classes is not None and names != spec.classes:
        wrong = [f"'{one_line(c)}'{nearest(c, names)}" for c in spec.classes if c not in names]
        detail = f"not in the json: {few(wrong)}" if wrong else f"the json's order is {few(names, 20)}"
        raise DatasetError(
            f"dataset '{spec.name}': `classes` differ from the categories of '{path}' by id; {detail}. "
            "Correct `classes`, or leave it out to take the json's."
        )
    return by_id


def _images(spec: DatasetSpec, data: Mapping[str, Any], faults: Faults) -> dict[Any, Mapping[str, Any]]:
    """The images by id, those with faults left out."""
    good: dict[Any, Mapping[str, Any]] = {}
    files: set[str] = set()
    kinds = Counter("text" if isinstance(image["id"], str) else "number" for image in data["images"])
    if len(kinds) > 1:
        faults.error(f"image ids are numbers ({kinds['number']}) and strings ({kinds['text']}): make them one kind")
    for image in data["images"]:
        number, name = image["id"], image["file_name"]
        label = f"image {short(number)}"
        if not isinstance(number, str) and not is_number(number) and not _is_integer(number):
            faults.error("image id that is neither a number nor a string", short(number))
        elif number in good:
            faults.error("image id listed more than once", str(number))
        elif not isinstance(name, str) or not name or "\0" in name:
            faults.error("file_name that is no name of a file", f"{label}: {short(name)}")
        elif os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
            faults.error(
                "file_name that leads out of the image folder (let `images` name the folder that holds them all)",
                f"{label}: {one_line(name)}",
            )
        elif not all(
            is_number(v) and v == int(v) and 1 <= v <= _LARGEST_SIDE for v in (image["width"], image["height"])
        ):
            faults.error(
                "width and height that are no numbers of pixels",
                f"{label}: {short(image['width'])} x {short(image['height'])}",
            )
        elif os.path.normpath(name) in files:
            faults.error("image file listed under two ids; merge their annotations", one_line(name))
        elif len(kinds) == 1:
            good[number] = image
            files.add(os.path.normpath(name))
    return good


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _missing_images(spec: DatasetSpec, images: Iterable[Mapping[str, Any]]) -> list[str]:
    """File names that do not exist under `image_root` (one listing per folder)."""
    listings: dict[str, set[str]] = {}
    missing = []
    for image in images:
        folder, name = os.path.split(image["file_name"])
        if folder not in listings:
            path = os.path.join(str(spec.image_root), folder)
            listings[folder] = set(os.listdir(path)) if os.path.isdir(path) else set()
        if name not in listings[folder]:
            missing.append(image["file_name"])
    return missing


def _annotations(
    raw: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    order: Mapping[Any, int],
    contiguous: Mapping[Any, int],
    faulty: set[Any],
    faults: Faults,
) -> Truth:
    """Puts the annotations into their images' records; returns what evaluation needs of them.

    Args:
        order: image id -> position in `records`; `faulty`: ids of images that were left out for a fault of their own.
    """
    _check_ids(raw, faults)
    spelt = {_spelt(number) for number in order}
    rows: dict[str, list[Any]] = defaultdict(list)
    strays = []
    for position, entry in enumerate(raw):
        number, category = entry["image_id"], entry["category_id"]
        if _hashable(number) and number in faulty:
            continue
        if not _hashable(number) or number not in order or isinstance(number, bool):
            label = _label(entry, position)
            if _spelt(number) in spelt:
                faults.error("image_id of another type than the image's id", f"{label}: {short(number)}")
            elif not isinstance(number, str) and not _is_integer(number) and not is_number(number):
                faults.error("image_id that is neither a number nor a string", f"{label}: {short(number)}")
            strays.append(label)
            continue
        record = records[order[number]]
        try:
            if not _hashable(category) or category not in contiguous or isinstance(category, bool):
                raise _Fault(f"category_id {short(category)} is not in 'categories'")
            annotation, box, size, stated = _annotation(entry, record)
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
    )


def _spelt(value: Any) -> str:
    """An id in words, by which the number 1 is the text "1", and so is 1.0."""
    return str(int(value)) if isinstance(value, float) and value == value // 1 else str(value)


def _hashable(value: Any) -> bool:
    return not isinstance(value, (list, dict))


def _check_ids(raw: Sequence[Mapping[str, Any]], faults: Faults) -> None:
    """Ids only have to tell annotations apart: nothing here, and no metric, uses their values."""
    ids = [entry["id"] for entry in raw if "id" in entry]
    if odd := [v for v in ids if not _hashable(v) or v is None or isinstance(v, bool)]:
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
    """What is wrong with one annotation; `detail`: its value."""

    def __init__(self, what: str, detail: str = ""):
        super().__init__(what)
        self.what, self.detail = what, detail


def _annotation(raw: Mapping[str, Any], record: Record) -> tuple[Record, list[float], float, bool]:
    """Returns an object's annotation, its box as it stands (XYWH), its area, and whether the json states that.

    Raises:
        _Fault: something is wrong with it.
    """
    box, height, width = raw["bbox"], record["height"], record["width"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise _Fault("bbox that is not four finite numbers [x, y, width, height]", short(box))
    if (crowd := raw.get("iscrowd", 0)) not in (0, 1) or isinstance(crowd, float):
        raise _Fault("iscrowd that is neither 0 nor 1", short(crowd))
    if raw.get("ignore", 0):
        raise _Fault("'ignore' is set, which is not supported; use iscrowd")
    if max(map(abs, box)) <= 1 and any(v != int(v) for v in box):
        raise _Fault("box within the first pixel: normalised coordinates? Give pixels", short(box))
    segmentation, fault = checked(raw.get("segmentation"), height, width)
    if fault is not None:
        raise _Fault(fault)
    size = raw.get("area")
    if size is not None and (not is_number(size) or size < 0):
        raise _Fault("area that is no number of square pixels", short(size))
    if size is not None and size > 2 * height * width:
        raise _Fault("area that is larger than its image", short(size))
    x, y, w, h = map(float, box)
    out: Record = {"bbox": [x, y, x + w, y + h], "category_id": -1}
    out["iscrowd"] = int(crowd)
    if segmentation is not None:
        out["segmentation"] = segmentation
    if stated := bool(size) or w <= 0 or h <= 0:
        return out, [x, y, w, h], float(size or 0), stated
    return out, [x, y, w, h], area(segmentation, height, width) if segmentation else w * h, stated
