"""The VOC loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transfer.data.sets import CAT, DOG, voc_image, voc_object, voc_set, voc_split
from transfer.data import catalog
from transfer.data.catalog import DatasetError


def test_records(tmp_path: Path) -> None:
    records = catalog.load(voc_set(tmp_path))
    assert [r["image_id"] for r in records] == ["b2", "a1", "c3"]
    assert records[0] == {
        "file_name": str(tmp_path / "JPEGImages" / "b2.jpg"),
        "image_id": "b2",
        "height": 30,
        "width": 40,
        "annotations": [
            {"bbox": [0.0, 0.0, 40.0, 30.0], "category_id": 1, "iscrowd": 0, "difficult": 0},
            {"bbox": [4.0, 5.0, 20.0, 21.0], "category_id": 0, "iscrowd": 0, "difficult": 0},
        ],
    }
    assert records[1]["annotations"][0]["difficult"] == 1 and records[2]["annotations"] == []


def test_decimals_and_other_suffixes_are_read(tmp_path: Path) -> None:
    spec = voc_set(tmp_path)
    voc_image(tmp_path, "d4", voc_object(CAT, (1.5, 2, 3.25, 4)), suffix=".png")
    voc_split(tmp_path, "train", "d4")
    [record] = catalog.load(spec)
    assert record["file_name"].endswith("d4.png") and record["annotations"][0]["bbox"] == [0.5, 1, 3.25, 4]


def test_every_fault_is_one_clear_error(tmp_path: Path) -> None:
    spec = voc_set(tmp_path)
    xml = tmp_path / "Annotations" / "a1.xml"

    voc_image(tmp_path, "a1", voc_object("dgo", (1, 1, 2, 2)))
    with pytest.raises(DatasetError, match="class 'dgo' is not listed; did you mean dog.: a1"):
        catalog.load(spec)
    voc_image(tmp_path, "a1", voc_object(DOG, ("left", 1, 2, 2)))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="a1.xml': <xmin> in <bndbox> is 'left', not a number"):
        catalog.load(spec)
    xml.write_text("<annotation><object><name>cat</name></object></annotation>")
    with pytest.raises(DatasetError, match="object 1 lacks <name> or <bndbox>"):
        catalog.load(spec)
    xml.write_text("<annotation></annotation>")
    with pytest.raises(DatasetError, match="<size/width> in <annotation> is None"):
        catalog.load(spec)
    xml.write_text("<annotation>")
    with pytest.raises(DatasetError, match="no well-formed XML"):
        catalog.load(spec)
    xml.unlink()
    with pytest.raises(DatasetError, match="a1.xml' does not exist"):
        catalog.load(spec)
    (tmp_path / "JPEGImages" / "b2.jpg").unlink()
    with pytest.raises(DatasetError, match="image missing from .*: b2"):
        catalog.load(spec)
    voc_split(tmp_path, "train", "a1 -1")
    with pytest.raises(DatasetError, match="line 1: 'a1 -1' holds 2 words; expected one image id"):
        catalog.load(spec)
    voc_split(tmp_path, "train")
    with pytest.raises(DatasetError, match="lists no image"):
        catalog.load(spec)
    (tmp_path / "ImageSets" / "Main" / "train.txt").rename(tmp_path / "ImageSets" / "Main" / "val.txt")
    with pytest.raises(DatasetError, match="train.txt' does not exist; the folder has val"):
        catalog.load(spec)


@pytest.mark.d2
def test_equals_detectron2(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data.datasets.pascal_voc import load_voc_instances

    spec = voc_set(tmp_path)
    theirs = load_voc_instances(str(tmp_path), "train", [CAT, DOG])
    for a, b in zip(catalog.load(spec), theirs, strict=True):
        assert {**a, "annotations": None} == {**b, "annotations": None}
        for x, y in zip(a["annotations"], b["annotations"], strict=True):
            assert (x["bbox"], x["category_id"]) == (y["bbox"], y["category_id"])
