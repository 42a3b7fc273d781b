"""Reads the COCO layout: one instances json per split, and images in a folder.

Boxes in the json are XYWH in absolute pixels; here they are XYXY. Category ids in the json may have gaps; here they are
contiguous from 0, in the order of the json's ids. The json's whole content is validated once, here: what loads can be
trained on, and what is scorable is scored as pycocotools scores it with all ids counted from 1.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pretrain.runtime.collector import without_collection
from pretrain.runtime.wording import short
from transfer.data import strict_json
from transfer.data.coco_annotations import Reader, Truth, is_hashable, is_integer, read_annotations
from transfer.data.faults import Faults
from transfer.data.format import Contents, Format
from transfer.data.keypoints import read_keypoints
from transfer.data.segmentation import is_number
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
MOST = 100  # detections per image and class that COCO's AP looks at
_LARGEST_SIDE = 1_000_000  # pixels; what is beyond is a mistake


class _Split(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: Text
    annotations: Text


class COCOKeys(BaseModel):
    """Declares a spec file's keys; see datasets/README.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    root: Text
    classes: Names | None = None
    outside: bool = False
    flip_pairs: list[Annotated[list[Text], Field(min_length=2, max_length=2)]] | None = None
    splits: dict[Text, _Split] = Field(min_length=1)


class COCO(Format):
    """Reads this layout; see the module."""

    name = "coco"
    keys = COCOKeys
    set_aside = "crowd"
    masks = True
    full_words = f"with more than {MOST} objects of a class, of which COCO's AP counts at most {MOST} detections"

    def specs(self, keys: COCOKeys, file: Path) -> list[DatasetSpec]:
        root = path_in(file.parent, keys.root)
        classes = None if keys.classes is None else tuple(keys.classes)
        pairs = None if keys.flip_pairs is None else tuple((a, b) for a, b in keys.flip_pairs)
        return [
            DatasetSpec(
                f"{keys.name}_{name}", self.name, root, name, classes,
                image_root=path_in(root, split.images), json_file=path_in(root, split.annotations),
                flip_pairs=pairs, outside=keys.outside,
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
        return ("coco", "coco_keypoints")

    def json(self, spec: DatasetSpec) -> dict[str, Any]:
        """Reads the json into COCO's form; see `read_json`."""
        return read_json(spec)

    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        names = [str(image.get("file_name")) for image in self.json(spec)["images"]]
        return self.place(spec).read_bytes(), [(name, _image_root(spec) / name.replace("\0", "")) for name in names]

    def full(self, truth: Truth, classes: int) -> list[int]:
        """Returns the positions of images with more objects of a class than the protocol considers detections."""
        of_class = (truth.image * classes + truth.category)[~truth.crowd]
        values, counts = np.unique(of_class, return_counts=True)
        return [int(value) // classes for value in values[counts > MOST]]

    @without_collection()
    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        return self.contents(spec, self.json(spec), faults)

    def contents(
        self, spec: DatasetSpec, data: Mapping[str, Any], faults: Faults, more: Reader | None = None
    ) -> Contents:
        """Validates the json's content, as `read` describes; `more` reads further keys of an annotation."""
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
        faulty = {image["id"] for image in data["images"] if is_hashable(image["id"])} - set(images)
        keypoints = read_keypoints([c for c in data["categories"] if c["id"] in names], spec.flip_pairs, faults)
        truth = read_annotations(data["annotations"], records, order, contiguous, faulty, keypoints, faults, more)
        lost = set(_missing_images(spec, images.values()))
        missing = frozenset(order[number] for number, image in images.items() if image["file_name"] in lost)
        for name in sorted(lost):
            faults.error(f"image missing from '{spec.image_root}'", one_line(name))
        if not data["images"]:
            faults.error("no image is listed")
        if full := [os.path.basename(records[i]["file_name"]) for i in self.full(truth, len(names))]:
            faults.note(f"images {self.full_words}: even perfect detections do not reach 100", *full)
        left_out = int((truth.place < 0).sum())
        return Contents(tuple(names.values()), tuple(names), records, missing, truth, keypoints, left_out)


def _image_root(spec: DatasetSpec) -> Path:
    assert spec.image_root is not None  # check_spec
    return spec.image_root


@without_collection()
def read_json(
    spec: DatasetSpec, needed: Mapping[str, set[str]] = _NEEDED, remedies: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Reads the json with its three lists: images, annotations, categories.

    Args:
        needed: name of a list -> the keys that each of its entries must have.
        remedies: one of these keys -> what may help where it is absent.

    Raises:
        DatasetError: there is no such file, it is not json, or a list or an entry's needed key is absent.
    """
    path = spec.json_file
    assert path is not None  # check_spec
    if not path.is_file():
        remedy = spec.remedy or "check `root` and `annotations` of its spec file"
        raise DatasetError(f"dataset '{spec.name}': annotation file '{path}' does not exist; {remedy}")
    data = strict_json.read(path, DatasetError)
    if isinstance(data, dict) and {"images", "categories"} <= data.keys():
        data.setdefault("annotations", [])  # as of COCO's test images, which nobody else has the annotations of
    lacking: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
    for key, keys in needed.items():
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DatasetError(f"'{path}' has no list '{key}'; expected COCO's instances format")
        for entry in data[key]:
            if not isinstance(entry, dict):
                raise DatasetError(f"'{path}': one of {key} is {short(entry)}, not an object with keys")
            if key == "images" and "neg_category_ids" in entry.keys() - keys:
                raise DatasetError(
                    f"'{path}' is a json of LVIS, which COCO's AP would score wrongly (its images are not annotated "
                    "exhaustively); give format: lvis"
                )
            if absent := keys - entry.keys():
                lacking.setdefault((key, tuple(sorted(absent))), []).append(entry)
    if lacking:
        found = (
            f"{len(entries)} of {len(data[key])} {key} without {', '.join(absent)}, such as {short(entries[0])}"
            for (key, absent), entries in lacking.items()
        )
        names = {name for _, absent in lacking for name in absent}
        helpful = {remedy for name, remedy in (remedies or {}).items() if name in names}
        raise DatasetError(f"'{path}': {'; '.join([*found, *sorted(helpful)])}")
    return data


def categories(spec: DatasetSpec, data: Mapping[str, Any], faults: Faults) -> dict[int | str, str]:
    """Returns original category id -> name, ordered by id; the position is the contiguous id.

    A category that `spec.classes` does not list is left out if it has no object, such as Roboflow's first one.

    Raises:
        DatasetError: `spec.classes` is given and differs from the json's names in this order, or unusable ids or names
            leave no class.
    """
    path = spec.json_file
    found = [(c["id"], c["name"]) for c in data["categories"]]
    if not found:
        raise DatasetError(f"'{path}' lists no category; give it the classes of its objects")
    kinds = {type(number) for number, _ in found}
    if kinds not in ({int}, {str}):
        odd = next(number for number, _ in found if type(number) is not int)
        raise DatasetError(f"'{path}': category id {short(odd)}; ids must be integers, or all of them strings")
    if odd := [name for _, name in found if not isinstance(name, str) or not name.strip()]:
        raise DatasetError(f"'{path}': category name {short(odd[0])}; give every category a name")
    objects = Counter(a["category_id"] for a in data["annotations"] if is_hashable(a["category_id"]))
    if spec.classes is not None:
        found = _without_empty(spec.classes, found, objects, faults)
    for what, values in (("category id", [n for n, _ in found]), ("category name", [name for _, name in found])):
        if twice := [v for v, times in Counter(values).items() if times > 1]:
            raise DatasetError(f"'{path}': {what} {few(map(short, twice))} stands twice; rename or merge them")
    by_id: dict[int | str, str] = dict(sorted(found))
    names = tuple(by_id.values())
    if odd := [name for name in names if not name.isprintable()]:
        faults.error("category name with control characters", *map(one_line, odd))
    if spec.classes is not None and names != spec.classes:
        wrong = [f"'{one_line(c)}'{nearest(c, names)}" for c in spec.classes if c not in names]
        more = [f"'{one_line(name)}' ({objects[n]} objects)" for n, name in by_id.items() if name not in spec.classes]
        detail = f"the json's order is {few(names, 20)}"
        if wrong or more:
            detail = f"not in the json: {few(wrong)}" if wrong else f"not in `classes`: {few(more)}"
        raise DatasetError(
            f"dataset '{spec.name}': `classes` differ from the categories of '{path}' by id; {detail}. "
            "Correct `classes`, or leave it out to take the json's."
        )
    return by_id


def _without_empty(
    classes: Sequence[str], found: Sequence[tuple[Any, str]], objects: Mapping[Any, int], faults: Faults
) -> list[tuple[Any, str]]:
    """Returns (id, name) of categories, without empty ones whose name `classes` lacks or lists for another category.

    Args:
        objects: category id -> number of its objects.
    """
    full = {name for number, name in found if objects[number]}
    kept = [(n, name) for n, name in found if objects[n] or (name in classes and name not in full)]
    if left := [one_line(name) for number, name in found if (number, name) not in kept]:
        faults.note("categories without objects that `classes` leaves out", *left)
    return kept


def _images(spec: DatasetSpec, data: Mapping[str, Any], faults: Faults) -> dict[Any, Mapping[str, Any]]:
    """Returns the images by id, without those that have faults."""
    good: dict[Any, Mapping[str, Any]] = {}
    files: set[str] = set()
    kinds = Counter("text" if isinstance(image["id"], str) else "number" for image in data["images"])
    if len(kinds) > 1:
        faults.error(f"image ids are numbers ({kinds['number']}) and strings ({kinds['text']}): make them one kind")
    for image in data["images"]:
        number, name = image["id"], image["file_name"]
        label = f"image {short(number)}"
        if not isinstance(number, str) and not is_number(number) and not is_integer(number):
            faults.error("image id that is neither a number nor a string", short(number))
        elif number in good:
            faults.error("image id listed more than once", str(number))
        elif not isinstance(name, str) or not name or "\0" in name:
            faults.error("file_name that is no name of a file", f"{label}: {short(name)}")
        elif not spec.outside and (os.path.isabs(name) or ".." in name.replace("\\", "/").split("/")):
            faults.error(
                "file_name that leads out of the image folder (let `images` name the folder that holds them all, or "
                "say `outside: true` in the spec file)",
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


def _missing_images(spec: DatasetSpec, images: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the file names that do not exist under `image_root` (it lists each folder once)."""
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
