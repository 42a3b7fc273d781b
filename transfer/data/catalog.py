"""Finds data sets by name: the built-in ones, and any other through a spec file.

Nothing is registered anywhere: a name is looked up among the built-in sets and the spec files that are passed in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pretrain.runtime.config import load_yaml_of
from pretrain.runtime.config_kinds import DATA_SETS
from pretrain.runtime.validation import validate
from transfer.data import cityscapes, coco, semantic_sets, voc
from transfer.data.dataset import Dataset, annotated, open_dataset
from transfer.data.formats import named
from transfer.data.records import PackedRecords
from transfer.data.spec import DatasetError, DatasetSpec, Record, nearest, sizes_in

__all__ = [
    "Dataset",
    "DatasetError",
    "DatasetSpec",
    "Record",
    "builtin_specs",
    "category_ids",
    "class_names",
    "listing_digest",
    "load",
    "open_dataset",
    "read_spec_file",
    "resolve",
]

ROOT_VARIABLE = "DETECTRON2_DATASETS"

_REMEDY = {
    "VOC2007": "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar belong in one VOC2007 folder; "
    "datasets/prepare_voc.py merges them",
    "VOC2012": "extract VOCtrainval_11-May-2012.tar with datasets/prepare_voc.py",
    "coco": "unpack train2017, val2017 and annotations of COCO 2017 there, see datasets/README.md",
    "densepose": "unpack train2014 and val2014 of COCO 2014 there, and densepose_train2014.json, "
    "densepose_valminusminival2014.json and densepose_minival2014.json into annotations, see datasets/README.md",
    "lvis": "unpack lvis_v0.5_train.json and lvis_v0.5_val.json there, beside COCO 2017, see datasets/README.md",
    "cityscapes": "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there, see datasets/README.md",
}


def data_root() -> Path:
    """Returns the folder that holds the built-in data sets."""
    return Path(os.path.expanduser(os.environ.get(ROOT_VARIABLE, "datasets")))


def builtin_specs(root: str | os.PathLike[str] | None = None) -> dict[str, DatasetSpec]:
    """Returns VOC, COCO 2017, LVIS v0.5, COCO DensePose and Cityscapes in Detectron2's tree and by its names.

    VOC's semantic maps have names of this project's own.

    Args:
        root: folder of the tree; None takes `$DETECTRON2_DATASETS`, by default `./datasets`.
    """
    root = Path(os.path.expanduser(root)) if root else data_root()
    specs = []
    for year, splits in ((2007, ("train", "val", "trainval", "test")), (2012, ("train", "val", "trainval"))):
        specs += [_voc_spec(f"voc_{year}", root / f"VOC{year}", split, year) for split in splits]
    for split in ("train", "val"):
        for name, classes, file in (
            ("coco", coco.CLASS_NAMES, "instances"),
            ("keypoints_coco", ("person",), "person_keypoints"),
        ):
            specs.append(
                DatasetSpec(
                    f"{name}_2017_{split}", "coco", root / "coco", split, classes,
                    image_root=root / "coco" / f"{split}2017",
                    json_file=root / "coco" / "annotations" / f"{file}_{split}2017.json",
                )
            )  # fmt: skip
        specs.append(
            DatasetSpec(
                f"lvis_v0.5_{split}", "lvis", root / "lvis", split,
                image_root=root / "coco", json_file=root / "lvis" / f"lvis_v0.5_{split}.json",
            )
        )  # fmt: skip
        name, things = f"cityscapes_fine_instance_seg_{split}", tuple(cityscapes.THINGS)
        specs.append(DatasetSpec(name, "cityscapes", root / "cityscapes", split, things))
    for split in ("train", "valminusminival", "minival"):
        specs.append(
            DatasetSpec(
                f"densepose_coco_2014_{split}", "densepose", root / "coco", split, ("person",),
                image_root=root / "coco" / ("train2014" if split == "train" else "val2014"),
                json_file=root / "coco" / "annotations" / f"densepose_{split}2014.json", remedy=_REMEDY["densepose"],
            )
        )  # fmt: skip
    specs += semantic_sets.official(root)
    place = f", or name the folder that holds the data sets in ${ROOT_VARIABLE}"
    return {spec.name: replace(spec, remedy=(spec.remedy or _REMEDY[spec.root.name]) + place) for spec in specs}


def read_spec_file(path: str | os.PathLike[str]) -> list[DatasetSpec]:
    """Reads the splits that a YAML file describes; `datasets/README.md` documents the format.

    `root` is relative to the YAML file; `~` and `$VARIABLES` are expanded. Split `s` of set `n` is dataset `n_s`.

    Raises:
        ConfigError: there is no such file, it is not YAML, or it is for another command.
        DatasetError: a key is unknown (the message names the nearest known one) or missing, or a value is of the wrong
            kind.
    """
    path = Path(path)
    data = load_yaml_of(DATA_SETS, path)
    form = named(data.pop("format", None), str(path))
    return form.specs(validate(form.keys, data, path, DatasetError), path)


def resolve(names: Sequence[str], spec_files: Sequence[str | os.PathLike[str]] = ()) -> list[DatasetSpec]:
    """Returns the specs of `names`, in order, looked up among the built-in sets and those of `spec_files`.

    Raises:
        DatasetError: a name is unknown (the message gives the nearest known ones and where it was looked for), or two
            sources define one name differently.
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


def load(spec: DatasetSpec) -> PackedRecords:
    """Returns the dataset as Detectron2's standard records, one per image.

    Each record has `file_name`, `image_id` (str in VOC, as in the json in COCO), `height` and `width` in pixels as
    annotated, and `annotations`: dicts with `bbox` ([x0, y0, x1, y1], XYXY absolute, float), `category_id` (contiguous
    from 0) and `iscrowd`. VOC adds `difficult` (0 or 1; such objects are included). COCO adds `segmentation` where the
    json has one: a list of polygons [x0, y0, x1, y1, ...], or a compressed RLE {"size": [h, w], "counts": bytes or
    str}; polygons of fewer than three points are dropped, as is an object without any other. If the categories name
    keypoints, `keypoints` is the flat list [x, y, visibility, ...] in continuous coordinates. Values equal those of
    Detectron2's loaders, except that COCO boxes are already XYXY and that there is no `bbox_mode`.

    Raises:
        DatasetError: the data set cannot be used; see `dataset.open_dataset`.
    """
    return open_dataset(spec).records


def class_names(spec: DatasetSpec) -> tuple[str, ...]:
    """Returns class names in the order of the contiguous category ids; opens a set whose spec lists no classes."""
    return spec.classes if spec.classes is not None else open_dataset(spec).classes


def category_ids(spec: DatasetSpec) -> tuple[int | str, ...]:
    """Returns, by contiguous id, the category ids that result files use: the json's in COCO, 1, 2, ... in VOC."""
    return open_dataset(spec).category_ids


def listing_digest(spec: DatasetSpec) -> str:
    """Returns 16 hex digits that digest a dataset's classes, metric, split, annotation bytes, image names and sizes.

    It does not depend on where the dataset lies or on file times, so it keys the stages of an experiment.
    """
    digest, images = annotated(spec)
    for (name, _), size in zip(images, sizes_in(path for _, path in images), strict=True):
        digest.update(f"{name} {size}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _voc_spec(name: str, root: Path, split: str, year: int) -> DatasetSpec:
    return DatasetSpec(f"{name}_{split}", "voc", root, split, voc.CLASS_NAMES, year)
