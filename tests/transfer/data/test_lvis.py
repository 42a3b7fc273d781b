"""The LVIS layout: what an image does not say, where its file is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.transfer.data import lvis_sets as sets
from transfer.data import catalog
from transfer.data.spec import DatasetError


def opened(root: Path, data: dict[str, Any]) -> catalog.Dataset:
    return catalog.open_dataset(catalog.read_spec_file(sets.write(root, data))[0])


def test_absent_and_partly_annotated_classes_go_with_their_images(tmp_path: Path) -> None:
    data = sets.contents()
    dataset = opened(tmp_path, data)
    assert dataset.protocols == ("lvis",) and dataset.classes[:2] == ("thing_1", "thing_2")
    assert dataset.truth.frequency == tuple("rrrrccccffff")
    by_id = {image["id"]: image for image in data["images"]}
    for record, absent, partial in zip(dataset.records, dataset.truth.absent, dataset.truth.partial, strict=True):
        image = by_id[record["image_id"]]
        assert record["file_name"].endswith(f"val2017/{image['id']:012d}.jpg")  # from coco_url, not from file_name
        assert [i + 1 for i in absent] == image["neg_category_ids"]
        assert [i + 1 for i in partial] == image["not_exhaustive_category_ids"]
    for image in data["images"]:
        del image["file_name"]  # as in LVIS v1
    assert [r["file_name"] for r in opened(tmp_path, data).records] == [r["file_name"] for r in dataset.records]


def test_categories_without_objects_may_be_left_out(tmp_path: Path) -> None:
    """What images say of them is then not read; the others' ids are as without them."""
    data = sets.contents()
    whole = opened(tmp_path, data)
    data["categories"].insert(0, {"id": 0, "name": "project", "frequency": "r"})
    for image in data["images"]:
        image["neg_category_ids"].append(0)
        image["not_exhaustive_category_ids"].insert(0, 0)
    path = sets.write(tmp_path, data)
    path.write_text(f"{path.read_text()}classes: [{', '.join(whole.classes)}]\n")
    dataset = catalog.open_dataset(catalog.read_spec_file(path)[0])
    assert dataset.classes == whole.classes and any(map(len, whole.truth.absent))
    assert (dataset.truth.absent, dataset.truth.partial) == (whole.truth.absent, whole.truth.partial)
    data["images"][0]["neg_category_ids"].append(99)
    (tmp_path / "lvis.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="neg_category_ids names what is not in 'categories': image 1000: 99"):
        catalog.open_dataset(catalog.read_spec_file(path)[0])


def _coco(data: dict[str, Any]) -> None:
    for image in data["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_coco, "images without neg_category_ids.*is it a json of COCO"),
        (lambda d: d["categories"][3].pop("frequency"), "1 of 12 categories without frequency, such as"),
        (
            lambda d: d["categories"][3].update(frequency="often"),
            "none of r, c, f: .often. of category",
        ),
        (lambda d: d["images"][0].update(neg_category_ids=[99]), "neg_category_ids names what is not in 'categories'"),
        (lambda d: d["images"][0].update(neg_category_ids="1"), "neg_category_ids that is no list"),
        (
            lambda d: d["images"][0]["neg_category_ids"].extend({a["category_id"] for a in d["annotations"]}),
            "annotated class that neg_category_ids calls absent",
        ),
        (lambda d: [i.pop("coco_url") + i.pop("file_name") for i in d["images"]], "neither coco_url nor file_name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change, message: str) -> None:
    data = sets.contents()
    change(data)
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path, data)


@pytest.mark.parametrize("version", ["v0.5", "v1"])
def test_a_json_of_lvis_is_none_of_coco(tmp_path: Path, version: str) -> None:
    data = sets.contents()
    for image in data["images"] if version == "v1" else ():
        del image["file_name"]
    path = sets.write(tmp_path, data)
    path.write_text(path.read_text().replace("format: lvis", "format: coco"))
    with pytest.raises(DatasetError, match="is a json of LVIS, .* give format: lvis"):
        catalog.open_dataset(catalog.read_spec_file(path)[0])


def test_more_objects_than_are_looked_at(tmp_path: Path) -> None:
    data = sets.contents()
    first = data["annotations"][0]
    data["annotations"] += [{**first, "id": 1000 + i} for i in range(300)]
    assert any("of which LVIS' AP counts at most 300 detections" in note for note in opened(tmp_path, data).notes)
