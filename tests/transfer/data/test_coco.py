"""The COCO loader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from tests.transfer.data.sets import CAT, DOG, box, coco_set, keypoint_set
from transfer.data import catalog, doctor
from transfer.data.catalog import DatasetError, DatasetSpec


def test_records_are_contiguous_and_xyxy(tmp_path: Path) -> None:
    records = catalog.load(coco_set(tmp_path))
    assert [r["image_id"] for r in records] == [2, 9]
    two, nine = records
    assert two["file_name"] == str(tmp_path / "images" / "sub" / "two.jpg")
    assert two["annotations"] == [{"bbox": [0, 0, 40, 30], "category_id": 0, "iscrowd": 0}]  # annotation 3 is hopeless
    polygon, crowd = nine["annotations"]
    assert polygon["bbox"] == [1.5, 2, 11.5, 10.25] and polygon["category_id"] == 1
    assert polygon["segmentation"] == [[1.5, 2, 11.5, 2, 11.5, 10.25]]
    assert crowd["iscrowd"] == 1 and crowd["category_id"] == 0
    mask = mask_util.decode(crowd["segmentation"])
    assert mask.sum() == 60 and mask[:, 10:12].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [box(1, 9, 5, [0, 0, 1, 1])]},
            "category_id 5 is not in 'categories': annotation 1 of nine.jpg",
        ),
        (
            {"annotations": [box(1, 9, 3, [0, 0, 1, 1], bbox=[])]},
            r"bbox that is not four finite numbers .*: annotation 1 of nine.jpg: \[\]",
        ),
        (
            {"annotations": [box(1, 9, 3, [0, 0, 1, 1])] * 2},
            "annotation id stands more than once; number them anew: 1",
        ),
        ({"annotations": [box(1, 9, 3, [0, 0, 1, 1], ignore=1)]}, "'ignore' is set, .*: annotation 1 of nine.jpg"),
        (
            {"annotations": [{"id": 1}], "images": [{"id": 1, "file_name": "a.jpg"}] * 2},
            "2 of 2 images without height, width, such as .*; 1 of 1 annotations without bbox, category_id, image_id",
        ),
        (
            {"images": [{"id": 1, "file_name": "gone.jpg", "width": 1, "height": 1}]},
            "image missing from .*images': gone.jpg",
        ),
        ({"categories": None}, "has no list 'categories'"),
    ],
)
def test_faults_are_explained(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        catalog.load(coco_set(tmp_path, **changes))


def test_missing_or_broken_json(tmp_path: Path) -> None:
    spec = coco_set(tmp_path)
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(DatasetError, match="is no json"):
        catalog.load(spec)
    (tmp_path / "train.json").unlink()
    with pytest.raises(DatasetError, match="train.json' does not exist"):
        catalog.load(spec)


def test_classes_must_be_the_jsons(tmp_path: Path) -> None:
    spec = coco_set(tmp_path)

    def with_classes(*names: str) -> DatasetSpec:
        return DatasetSpec("pets_train", "coco", tmp_path, "train", names, None, spec.image_root, spec.json_file)

    assert len(catalog.load(with_classes(CAT, DOG))) == 2
    with pytest.raises(DatasetError, match="the json's order is cat, dog"):
        catalog.load(with_classes(DOG, CAT))
    with pytest.raises(DatasetError, match="'kat'; did you mean cat"):
        catalog.load(with_classes("kat", DOG))


@pytest.mark.parametrize("first", ["pets", DOG])
def test_classes_leave_out_a_category_without_objects(tmp_path: Path, first: str) -> None:
    """Roboflow's category 0, which of a project with one class may even have that one's name."""
    categories = [{"id": 0, "name": first, "supercategory": "none"}, {"id": 7, "name": DOG}, {"id": 3, "name": CAT}]
    spec = coco_set(tmp_path, categories=categories)
    listed = replace(spec, classes=(CAT, DOG))
    assert catalog.category_ids(spec if first == "pets" else listed) == ((0, 3, 7) if first == "pets" else (3, 7))
    plain = coco_set(tmp_path / "plain")
    assert [r["annotations"] for r in catalog.load(listed)] == [r["annotations"] for r in catalog.load(plain)]
    report = doctor.check(listed)
    assert report.ok and f"note: categories without objects that `classes` leaves out: {first}" in str(report)
    if first == DOG:
        with pytest.raises(DatasetError, match="category name 'dog' stands twice"):
            catalog.load(spec)


def test_classes_leave_out_no_category_with_objects(tmp_path: Path) -> None:
    spec = replace(coco_set(tmp_path), classes=(CAT,))
    with pytest.raises(DatasetError, match=r"not in `classes`: 'dog' \(1 objects\)"):
        catalog.load(spec)


def test_keypoints_of_the_categories_that_are_left(tmp_path: Path) -> None:
    person = {"id": 5, "name": "person", "keypoints": ["nose", "left_hand", "right_hand"]}
    categories = [{"id": 0, "name": "people", "supercategory": "none"}, person]
    (spec,) = catalog.read_spec_file(keypoint_set(tmp_path, spec={"classes": ["person"]}, categories=categories))
    assert catalog.open_dataset(spec).keypoints is not None


@pytest.mark.d2
def test_equals_detectron2(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.coco import load_coco_json
    from detectron2.structures import BoxMode

    spec = coco_set(tmp_path)
    theirs = load_coco_json(str(spec.json_file), str(spec.image_root), "coco_loader_test")
    assert MetadataCatalog.get("coco_loader_test").thing_classes == list(catalog.class_names(spec))
    for a, b in zip(catalog.load(spec), theirs, strict=True):
        assert {**a, "annotations": None} == {**b, "annotations": None}
        for x, y in zip(a["annotations"], b["annotations"], strict=True):
            box_y = BoxMode.convert(np.array([y["bbox"]], np.float64), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)[0]
            assert x["bbox"] == box_y.tolist()
            assert {**x, "bbox": None} == {k: v for k, v in y.items() if k != "bbox_mode"} | {"bbox": None}
