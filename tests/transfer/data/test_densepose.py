"""The DensePose layout: what records keep, and every fault of the points in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.transfer.data.densepose_sets import contents, write
from transfer.data import catalog
from transfer.data.dataset import Dataset
from transfer.data.densepose import MASKS, RANGES, has_points
from transfer.data.spec import DatasetError


def opened(root: Path, data: dict[str, Any]) -> Dataset:
    return catalog.open_dataset(catalog.read_spec_file(write(root, data))[0])


def test_records_keep_the_points_as_they_stand(tmp_path: Path) -> None:
    data = contents()
    dataset = opened(tmp_path, data)
    assert dataset.protocols == ("coco", "densepose") and dataset.keypoints is None and dataset.classes == ("person",)
    kept = [annotation for record in dataset.records for annotation in record["annotations"]]
    assert len(kept) == len(data["annotations"]) == 16
    for annotation, raw in zip(kept, data["annotations"], strict=True):
        assert has_points(annotation) == ("dp_x" in raw) and "keypoints" not in annotation
        assert {key: annotation.get(key) for key in (*RANGES, MASKS)} == {key: raw.get(key) for key in (*RANGES, MASKS)}
    assert not dataset.problems


def test_a_point_may_lie_anywhere_in_the_last_pixel(tmp_path: Path) -> None:
    data = contents()
    data["annotations"][0]["dp_x"] = [255.9] * 12
    assert not opened(tmp_path, data).problems


def test_the_official_sets_lie_in_detectron2s_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    specs = catalog.builtin_specs()
    for split, images in (("train", "train2014"), ("valminusminival", "val2014"), ("minival", "val2014")):
        spec = specs[f"densepose_coco_2014_{split}"]
        assert spec.json_file == Path(f"/data/coco/annotations/densepose_{split}2014.json")
        assert spec.image_root == Path(f"/data/coco/{images}") and "densepose_train2014.json" in spec.remedy


RLE_OF_ANOTHER_SIZE = {"size": [10, 10], "counts": [100]}
FAULTS = [
    ({"dp_U": [0.5]}, "lists of different lengths in dp_x, dp_y, dp_I, dp_U, dp_V.* 12, 12, 12, 1, 12"),
    ({"dp_V": None}, "dp_V that is no list of numbers"),
    ({"dp_U": [0.5, "a"] * 6}, "dp_U that holds what is no finite number.* 'a'"),
    ({"dp_I": [25] * 12}, "dp_I outside of 1 to 24.* 25"),
    ({"dp_I": [0] * 12}, "dp_I outside of 1 to 24.* 0"),
    ({"dp_I": [2.5] * 12}, "dp_I that holds what is no number of a part.* 2.5"),
    ({"dp_V": [1.01] * 12}, "dp_V outside of 0 to 1.* 1.01"),
    ({"dp_U": [-0.1] * 12}, "dp_U outside of 0 to 1.* -0.1"),
    ({"dp_x": [300.0] * 12}, "dp_x outside of 0 to 255.* 300"),
    ({"dp_x": [256] * 12}, "dp_x outside of 0 to 255.* 256"),
    ({"dp_y": [-1.0] * 12}, "dp_y outside of 0 to 255.* -1"),
    ({"dp_x": []}, "dp_x that is no list of numbers, one per point"),
    ({"dp_masks": [[]] * 13}, "dp_masks that is no list of 14 masks.* 13 entries"),
    ({"dp_masks": {}}, "dp_masks that is no list of 14 masks"),
    ({"dp_masks": [[]] * 13 + ["a"]}, "dp_masks that holds neither run lengths .RLE. nor \\[\\].* part 14: 'a'"),
    ({"dp_masks": [RLE_OF_ANOTHER_SIZE] + [[]] * 13}, "dp_masks: run lengths .RLE. of 10x10 in .* 256x256.* part 1"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_faults_of_the_points(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    data = contents()
    data["annotations"][1] |= changes
    with pytest.raises(DatasetError, match=f"people_val.*{message}") as raised:
        opened(tmp_path, data)
    assert "\n" not in str(raised.value) and "annotation 2" in str(raised.value)


@pytest.mark.parametrize("key", [*RANGES, MASKS])
def test_a_list_that_is_not_there(tmp_path: Path, key: str) -> None:
    data = contents()
    del data["annotations"][0][key]
    with pytest.raises(DatasetError, match=f"points of DensePose that are incomplete.* without {key}"):
        opened(tmp_path, data)


def test_what_official_files_have_is_mended(tmp_path: Path) -> None:
    """Ids that stand twice, polygons of two points, objects with no point, run lengths as numbers."""
    data = contents()
    data["annotations"][3]["id"] = data["annotations"][2]["id"]
    data["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    data["annotations"][1] |= dict.fromkeys(RANGES, [])
    data["annotations"][0][MASKS][5] = {"size": [256, 256], "counts": [256 * 250, 256 * 6]}
    dataset = opened(tmp_path, data)
    assert len(dataset.records[0]["annotations"]) == 4 and not dataset.left_out
    first, second = dataset.records[0]["annotations"][:2]
    assert isinstance(first[MASKS][5]["counts"], bytes) and not has_points(second)
    assert len(dataset.notes) == 2 and all(problem.level == "note" for problem in dataset.problems)


def test_other_jsons_in_its_name(tmp_path: Path) -> None:
    data = contents()
    for annotation in data["annotations"]:
        for key in (*RANGES, MASKS):
            annotation.pop(key, None)
    with pytest.raises(DatasetError, match="is it a json of COCO. Then give format: coco"):
        opened(tmp_path, data).check_scorable()
    data = contents()
    data["images"][0]["ignore_regions_x"] = [[1, 2, 3]]
    with pytest.raises(DatasetError, match="ignore_regions_x, which is not supported.* 40"):
        opened(tmp_path, data)
