"""From dataset names to records: the built-in sets, spec files for any other, and one loader for both formats.

Nothing is registered anywhere: a name is looked up among the built-ins and the spec files that are passed in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.runtime.config import check_known, load_yaml
from transfer.data import coco, voc
from transfer.data.spec import DatasetError, DatasetSpec, Record, nearest, sizes_in

__all__ = [
    "DatasetError",
    "DatasetSpec",
    "Record",
    "builtin_specs",
    "category_ids",
    "class_names",
    "listing_digest",
    "load",
    "read_spec_file",
    "resolve",
]

ROOT_VARIABLE = "DETECTRON2_DATASETS"

_KEYS = {
    "voc": {"name", "format", "root", "classes", "year", "splits"},
    "coco": {"name", "format", "root", "classes", "splits"},
}
_REQUIRED = {
    "voc": ("name", "root", "classes", "year", "splits"),
    "coco": ("name", "root", "splits"),
}

_REMEDY = {
    "VOC2007": "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar belong in one VOC2007 folder; "
    "datasets/prepare_voc.py merges them",
    "VOC2012": "extract VOCtrainval_11-May-2012.tar with datasets/prepare_voc.py",
    "coco": "unpack train2017, val2017 and annotations of COCO 2017 there, see datasets/README.md",
}


def builtin_specs(root: str | os.PathLike[str] | None = None) -> dict[str, DatasetSpec]:
    """VOC 2007 and 2012 and COCO 2017 by Detectron2's names, in Detectron2's tree.

    Args:
        root: where the tree stands; None takes `$DETECTRON2_DATASETS`, by default `./datasets`.
    """
    root = Path(os.path.expanduser(root or os.environ.get(ROOT_VARIABLE, "datasets")))
    specs = []
    for year, splits in ((2007, ("train", "val", "trainval", "test")), (2012, ("train", "val", "trainval"))):
        specs += [_voc_spec(f"voc_{year}", root / f"VOC{year}", split, voc.CLASS_NAMES, year) for split in splits]
    for split in ("train", "val"):
        images, annotations = f"{split}2017", f"annotations/instances_{split}2017.json"
        specs.append(_coco_spec("coco_2017", root / "coco", split, coco.CLASS_NAMES, images, annotations))
    place = f", or name the folder that holds the data sets in ${ROOT_VARIABLE}"
    return {spec.name: replace(spec, remedy=_REMEDY[spec.root.name] + place) for spec in specs}


def read_spec_file(path: str | os.PathLike[str]) -> list[DatasetSpec]:
    """The splits that a YAML file describes; `datasets/README.md` documents the format.

    `root` is relative to the YAML file; `~` and `$VARIABLES` are expanded. Split `s` of set `n` is dataset `n_s`.

    Raises:
        ConfigError: no such file, no YAML, or an unknown key (the nearest known one is named).
        DatasetError: a key is missing or has a value of the wrong kind.
    """
    path = Path(path)
    data = load_yaml(path)
    kind = data.get("format")
    if kind not in _KEYS:
        raise DatasetError(f"{path}: format is {kind!r}; give 'voc' or 'coco'")
    for key in data:
        check_known(str(key), _KEYS[kind], str(path))
    if absent := [key for key in _REQUIRED[kind] if key not in data]:
        raise DatasetError(f"{path}: the {kind} format needs `{'`, `'.join(absent)}`")
    name, splits = str(data["name"]), data["splits"]
    root = _path(path.parent, str(data["root"]))
    classes = _names(data["classes"], "classes", path) if data.get("classes") is not None else None
    if kind == "voc":
        return [_voc_spec(name, root, s, classes, data["year"]) for s in _names(splits, "splits", path)]
    if not isinstance(splits, Mapping) or not splits:
        raise DatasetError(f"{path}: `splits` must map a split to its `images` folder and `annotations` json")
    specs = []
    for split, entry in splits.items():
        if not isinstance(entry, Mapping):
            raise DatasetError(f"{path}: splits.{split} is {entry!r}; give `images` and `annotations`")
        for key in entry:
            check_known(str(key), {"images", "annotations"}, f"{path}: splits.{split}")
        if absent := [key for key in ("images", "annotations") if key not in entry]:
            raise DatasetError(f"{path}: splits.{split} needs `{'`, `'.join(absent)}`")
        specs.append(_coco_spec(name, root, str(split), classes, str(entry["images"]), str(entry["annotations"])))
    return specs


def resolve(names: Sequence[str], spec_files: Sequence[str | os.PathLike[str]] = ()) -> list[DatasetSpec]:
    """The specs of `names`, in order, looked up among the built-ins and the sets of `spec_files`.

    Raises:
        DatasetError: an unknown name (with the nearest known ones and where they were looked for), or one name that
            two sources define differently.
    """
    known = builtin_specs()
    source: dict[str, str] = {}
    for file in spec_files:
        for spec in read_spec_file(file):
            if spec.name in known and known[spec.name] != spec:
                other = source.get(spec.name, "the built-in sets")
                raise DatasetError(f"dataset '{spec.name}' is defined by '{file}' and by {other}; rename one")
            known[spec.name], source[spec.name] = spec, f"'{file}'"
    for name in names:
        if name not in known:
            files = ", ".join(f"'{file}'" for file in spec_files)
            where = "the built-in sets" + (f" and those of {files}" if files else "")
            hint = nearest(name, known) or "; name its spec file in DATASETS.SPECS or --spec" * (not files)
            raise DatasetError(f"dataset '{name}' is not among {where}{hint}")
    return [known[name] for name in names]


def load(spec: DatasetSpec) -> list[Record]:
    """The dataset as Detectron2's standard records, one per image. Nothing is cached.

    Each record has `file_name`, `image_id` (str in VOC, int in COCO), `height` and `width` in pixels as annotated, and
    `annotations`: dicts with `bbox` ([x0, y0, x1, y1], XYXY absolute, float), `category_id` (contiguous from 0),
    `iscrowd`, VOC: `difficult` (0 or 1; such objects are included), COCO: `segmentation` where the json has one
    (see `coco.load`). Values equal what Detectron2's loaders give, except that COCO boxes are XYXY already and that
    there is no `bbox_mode`.

    Raises:
        DatasetError: something listed is missing or malformed; `doctor.check` lists all such faults at once.
    """
    return (voc if spec.format == "voc" else coco).load(spec)


def class_names(spec: DatasetSpec) -> tuple[str, ...]:
    """Names in the order of the contiguous category ids; reads the json of a COCO set whose spec lists no classes."""
    if spec.classes is not None:
        return spec.classes
    return tuple(coco.categories(spec, coco.read_json(spec)).values())


def category_ids(spec: DatasetSpec) -> tuple[int, ...]:
    """The category id that result files use, by contiguous id: the json's in COCO, 1, 2, ... in VOC."""
    if spec.format == "voc":
        return tuple(range(1, len(class_names(spec)) + 1))
    return tuple(coco.categories(spec, coco.read_json(spec)))


def listing_digest(spec: DatasetSpec) -> str:
    """Hex digest (16 digits) of what a dataset holds: classes, metric, split, annotation bytes, image names and sizes.

    It does not depend on where the dataset lies or on file times, so it keys the stages of an experiment.
    """
    digest = hashlib.sha256(repr((spec.format, spec.classes, spec.year)).encode())
    if spec.format == "voc":
        ids, files = voc.read_split(spec), voc.image_files(spec)
        digest.update("\n".join(ids).encode())
        for image_id in ids:
            path = voc.annotation_file(spec, image_id)
            digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
        names = [files[image_id].name if image_id in files else image_id for image_id in ids]
        paths = [spec.root / "JPEGImages" / name for name in names]
    else:
        data = coco.read_json(spec)
        assert spec.json_file is not None and spec.image_root is not None  # DatasetSpec checks it
        digest.update(hashlib.sha256(spec.json_file.read_bytes()).digest())
        names = [image["file_name"] for image in data["images"]]
        paths = [spec.image_root / name for name in names]
    for name, size in zip(names, sizes_in(paths), strict=True):
        digest.update(f"{name} {size}\n".encode())
    return digest.hexdigest()[:16]


def _voc_spec(name: str, root: Path, split: str, classes: tuple[str, ...] | None, year: Any) -> DatasetSpec:
    return DatasetSpec(f"{name}_{split}", "voc", root, split, classes, year)


def _coco_spec(
    name: str, root: Path, split: str, classes: tuple[str, ...] | None, images: str, annotations: str
) -> DatasetSpec:
    return DatasetSpec(
        f"{name}_{split}",
        "coco",
        root,
        split,
        classes,
        image_root=_path(root, images),
        json_file=_path(root, annotations),
    )


def _path(base: Path, text: str) -> Path:
    """`text` with `~` and `$VARIABLES` expanded, relative to `base`."""
    expanded = os.path.expandvars(os.path.expanduser(text))
    if "$" in expanded:
        raise DatasetError(f"path '{text}' names an environment variable that is not set")
    return base / expanded


def _names(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, (str, int)) for v in value):
        raise DatasetError(f"{path}: `{key}` is {value!r}; give a list of names")
    return tuple(str(v) for v in value)
