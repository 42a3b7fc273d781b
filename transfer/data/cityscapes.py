"""Reads the Cityscapes layout: `leftImg8bit/<split>/<city>/<id>_leftImg8bit.png` and `gtFine/...instanceIds.png`.

A pixel of the latter holds `label * 1000 + number` for a single object, or the bare label (below 1000) for stuff, void,
and groups of things that could not be told apart. Such groups are crowd regions here, which training leaves out and
evaluation ignores. Masks are compressed run lengths; boxes are the smallest that cover them, XYXY in absolute pixels.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from pydantic import BaseModel, ConfigDict

from pretrain.runtime.folders import read_tree
from pretrain.runtime.log import progress
from pretrain.runtime.pixels import ImageFileError, opened
from transfer.data.faults import Faults
from transfer.data.format import Contents, Format
from transfer.data.spec import DatasetError, DatasetSpec, Names, Record, Text, few, nearest, one_line, path_in

THINGS: Mapping[str, int] = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""The classes with objects that count in evaluation, and their label ids."""
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""Labels that no evaluation looks at: what a prediction covers of them is not held against it."""
_LAST_LABEL = 33
_IMAGE, _OBJECTS = "_leftImg8bit.png", "_gtFine_instanceIds.png"


class CityscapesKeys(BaseModel):
    """Declares a spec file's keys; see datasets/README.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    root: Text
    classes: Names | None = None
    splits: Names


class Cityscapes(Format):
    """Reads this layout. `Contents.truth` is a tuple that holds each record's file of instance ids."""

    name = "cityscapes"
    keys = CityscapesKeys
    set_aside = "groups"
    masks = True

    def specs(self, keys: CityscapesKeys, file: Path) -> list[DatasetSpec]:
        root, classes = path_in(file.parent, keys.root), tuple(keys.classes or THINGS)
        return [DatasetSpec(f"{keys.name}_{split}", "cityscapes", root, split, classes) for split in keys.splits]

    def check_spec(self, spec: DatasetSpec) -> None:
        for name in spec.classes or ():
            if name not in THINGS:
                raise DatasetError(
                    f"dataset '{spec.name}': '{one_line(name)}' is no class of objects in Cityscapes"
                    f"{nearest(name, THINGS) or '; there are ' + ', '.join(THINGS)}"
                )

    def place(self, spec: DatasetSpec) -> Path:
        return spec.root / "gtFine" / spec.split

    def is_present(self, spec: DatasetSpec) -> bool:
        return self.place(spec).is_dir() and _images(spec).is_dir()

    def sources(self, spec: DatasetSpec) -> Iterable[Path]:
        yield _images(spec)
        for folder in (self.place(spec), _images(spec)):
            if folder.is_dir():
                yield from (folder / below for below in read_tree(folder, ("\0",)).folders)
        if self.place(spec).is_dir():
            yield from _files(self.place(spec), _OBJECTS).values()

    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        return ("cityscapes",)

    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        images, objects = _both(spec)
        content = b"\0".join(name.encode() + b" " + path.read_bytes() for name, path in objects.items())
        return content, [(path.name, path) for path in images.values()]

    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        images, objects = _both(spec)
        for folder, suffix in ((_images(spec), _IMAGE), (self.place(spec), _OBJECTS)):
            for name, times in Counter(map(os.path.basename, _named(folder, suffix))).items():
                if times > 1:
                    faults.error("file in several cities, which would be one image", name)
        for name in sorted(set(images) - set(objects)):
            faults.error(f"image without its file of instance ids (<id>{_OBJECTS} in '{self.place(spec)}')", name)
        for name in sorted(set(objects) - set(images)):
            faults.error(f"file of instance ids without its image (<id>{_IMAGE} in '{_images(spec)}')", name)
        names = [name for name in images if name in objects]
        if not names and not (images or objects):
            faults.error(f"no image is in '{_images(spec)}' (expected <city>/<id>{_IMAGE})")
        classes = spec.classes or tuple(THINGS)
        contiguous = {THINGS[name]: i for i, name in enumerate(classes)}
        records: list[Record] = []
        truth = []
        with (
            ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
            progress(len(names), f"objects of {spec.name}", "files", disable=len(names) < 100) as bar,
        ):
            for name, found in zip(names, pool.map(lambda n: _read(objects[n], contiguous), names), strict=True):
                bar.update()
                if isinstance(found, str):
                    faults.error("file of instance ids that cannot be used", f"{objects[name].name} ({found})")
                    continue
                record = {"file_name": str(images[name]), "image_id": name, **found}
                records.append(record)
                truth.append(objects[name])
        return Contents(classes, tuple(THINGS[name] for name in classes), records, truth=tuple(truth))


def read_ids(path: Path) -> np.ndarray:
    """Reads a file of instance ids as (H, W) int32.

    Raises:
        DatasetError: the file cannot be read, is not a 16-bit grey PNG, or holds a label that Cityscapes does not have.
    """
    try:
        with opened(path, formats=["PNG"]) as image:
            if not image.mode.startswith("I"):
                raise DatasetError(f"'{path}' is a PNG of mode {image.mode}, not of 16-bit grey levels (instance ids)")
            ids = np.asarray(image).astype(np.int32)
    except ImageFileError as error:
        raise DatasetError(f"cannot read '{path}': {one_line(error.reason)}") from None
    values = np.flatnonzero(np.bincount(ids.ravel()))
    labels = np.where(values >= 1000, values // 1000, values)
    if (labels > _LAST_LABEL).any():
        odd = few(values[labels > _LAST_LABEL].tolist())
        raise DatasetError(f"'{path}' holds {odd}, of labels that Cityscapes does not have (0 to {_LAST_LABEL})")
    return ids


def _read(path: Path, contiguous: Mapping[int, int]) -> dict[str, object] | str:
    """Returns the height, width and objects of one image, or what is wrong with its file."""
    try:
        ids = read_ids(path)
    except DatasetError as error:
        return str(error).removeprefix(f"'{path}' ")
    annotations = []
    for value in np.flatnonzero(np.bincount(ids.ravel())).tolist():
        label = value // 1000 if value >= 1000 else value
        if label not in contiguous:
            continue
        rle = mask_util.encode(np.asfortranarray(ids == value, dtype=np.uint8))
        x, y, w, h = mask_util.toBbox(rle).tolist()
        annotations.append(
            {
                "bbox": [x, y, x + w, y + h],
                "category_id": contiguous[label],
                "iscrowd": int(value < 1000),
                "segmentation": rle,
            }
        )
    return {"height": ids.shape[0], "width": ids.shape[1], "annotations": annotations}


def _images(spec: DatasetSpec) -> Path:
    return spec.root / "leftImg8bit" / spec.split


def _both(spec: DatasetSpec) -> tuple[dict[str, Path], dict[str, Path]]:
    """Returns the image files and the files of instance ids, both by image id and in order.

    Raises:
        DatasetError: a folder is absent.
    """
    place = spec.root / "gtFine" / spec.split
    for folder in (_images(spec), place):
        if not folder.is_dir():
            raise DatasetError(
                f"dataset '{spec.name}': folder '{folder}' does not exist; "
                f"{spec.remedy or 'check `root` and `splits` of its spec file'}"
            )
    return _files(_images(spec), _IMAGE), _files(place, _OBJECTS)


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Returns image id -> file for all cities below a folder, sorted by id."""
    found = {os.path.basename(name).removesuffix(suffix): folder / name for name in _named(folder, suffix)}
    return dict(sorted(found.items()))


def _named(folder: Path, suffix: str) -> list[str]:
    """Returns the paths below a folder that end with `suffix`, relative to it, without hidden ones."""
    return [name for name in read_tree(folder, (suffix.lower(),)).files if name.endswith(suffix)]
