"""Keypoints of COCO's layout: names, flip pairs, points, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.data.sets import POINTS, box, keypoint_set
from transfer.data import catalog, doctor
from transfer.data.dataset import Dataset
from transfer.data.keypoints import Keypoints, keypoints_differ
from transfer.data.spec import DatasetError


def opened(file: Path) -> Dataset:
    return catalog.open_dataset(catalog.read_spec_file(file)[0])


def one(points: Any, **more: Any) -> dict[str, Any]:
    """The changes of a set whose one object has these points."""
    return {"annotations": [box(1, 70, 5, [2, 3, 14, 20], keypoints=points, **more)]}


def category(*lists: Any, **more: Any) -> dict[str, Any]:
    """The changes of a set with a category per list of names."""
    return {
        "categories": [
            {"id": 5 + i, "name": f"kind{i}", **({} if names is None else {"keypoints": names}), **more}
            for i, names in enumerate(lists)
        ]
    }


def test_points_names_and_pairs_are_read(tmp_path: Path) -> None:
    dataset = opened(keypoint_set(tmp_path))
    assert dataset.keypoints == Keypoints(POINTS, ((1, 2),), ((0, 1), (0, 2)))
    assert dataset.keypoints.flipped == (0, 2, 1)
    crowd, whole, *_ = dataset.truth.keypoints[::-1]
    assert not crowd.any() and not whole.any()
    assert dataset.truth.keypoints[0].tolist() == [[4, 5, 2], [12, 8, 2], [6.5, 20, 2]]
    assert dataset.records[1]["annotations"][0]["keypoints"] == [4.5, 5.5, 2, 12.5, 8.5, 2, 7, 20.5, 2]


def test_the_doctor_counts_points(tmp_path: Path) -> None:
    report = doctor.check(catalog.read_spec_file(keypoint_set(tmp_path))[0])
    assert report.ok and report.keypoints == {"nose": (1, 1), "left_hand": (2, 0), "right_hand": (1, 0)}
    assert "left_hand        2       0" in str(report)


@pytest.mark.parametrize(
    ("names", "given", "pairs"),
    [
        (["l", "r"], None, None),
        (["l", "r"], [["l", "r"]], ((0, 1),)),
        (["l", "r"], [], ()),
        (["right_eye", "Nose", "left_eye"], None, ((0, 2),)),
        (["EyeRight", "EyeLeft"], None, ((0, 1),)),
        (["left_eye", "nose"], None, None),
        (["left_a", "right_a", "left_b", "right_b"], [["left_b", "right_b"]], ((2, 3),)),
    ],
)
def test_flip_pairs(tmp_path: Path, names: list[str], given: Any, pairs: Any) -> None:
    changes = category(names) | one([1, 1, 2] * len(names))
    dataset = opened(keypoint_set(tmp_path, spec={} if given is None else {"flip_pairs": given}, **changes))
    assert dataset.keypoints is not None and dataset.keypoints.pairs == pairs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (one([1, 2, 2] * 2), r"no list of 9 numbers, \[x, y, visibility\] of 3 points: annotation 1 .*: 6 numbers"),
        (one([1, 2, 2] * 4), "12 numbers"),
        (one([]), "0 numbers"),
        (one("nose"), "no list of 9 numbers.*'nose'"),
        (one({"nose": [1, 2, 2]}), "no list of 9 numbers"),
        (one([1, 2, 2] * 2 + [1, None, 2]), "no finite number: annotation 1 of a.jpg: None"),
        (one([1, 2, 2] * 2 + [1, float("nan"), 2]), "no finite number: .*nan"),
        (one([1, 2, 2] * 2 + [1, "4", 2]), "no finite number: .*'4'"),
        (one([1, 2, 2] * 2 + [True, 4, 2]), "no finite number: .*True"),
        (one([1, 2, 2] * 2 + [1, 4, 3]), "visibility that is not 0 .* or 2 .*: 3"),
        (one([1, 2, 2] * 2 + [1, 4, 0.5]), "visibility .*: 0.5"),
        (one([1, 2, 2] * 2 + [1, 4, -1]), "visibility .*: -1"),
        (one([1, 2, 2] * 3, num_keypoints=2), "num_keypoints that is not the number of labelled points: .*: 2, not 3"),
        (one([1, 2, 2] * 3, num_keypoints="3"), "num_keypoints .*: '3', not 3"),
        (category("nose"), "keypoints of a category that are no list of names: kind0: 'nose'"),
        (category(["nose", 3, "tail"]), "no list of names: kind0: .*3"),
        (category(["nose", "", "tail"]), "no list of names"),
        (category(["nose", "nose", "tail"]), "keypoint name that stands twice in a category: kind0: nose"),
    ],
)
def test_faults_are_explained(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message) as raised:
        opened(keypoint_set(tmp_path, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([["left_hand", "right_hnad"]], "a name that is no keypoint .*'right_hnad'; did you mean right_hand"),
        ([["left_hand", "right_hand"], ["nose", "left_hand"]], "flip_pairs with a name in two places: left_hand"),
        ([["nose", "nose"]], "flip_pairs with a name in two places: nose"),
        ([["left_hand"]], "flip_pairs"),
        ("left_hand", "flip_pairs"),
    ],
)
def test_faults_of_flip_pairs_are_explained(tmp_path: Path, pairs: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        opened(keypoint_set(tmp_path, spec={"flip_pairs": pairs}))


def test_flip_pairs_without_keypoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="flip_pairs are given, but no category"):
        opened(keypoint_set(tmp_path, spec={"flip_pairs": [["a", "b"]]}, **category(None)))


@pytest.mark.parametrize(("lists"), [(["a", "b"], None), (["a", "b"], ["a", "c"]), (["a", "b"], ["b", "a"])])
def test_categories_with_different_keypoints_are_boxes_only(tmp_path: Path, lists: Any) -> None:
    dataset = opened(keypoint_set(tmp_path, **category(*lists)))
    assert dataset.keypoints is None and "keypoints" not in dataset.records[1]["annotations"][0]
    assert "categories with different keypoints" in str(dataset.problems[0])
    assert "kind0 2" in str(dataset.problems[0])


def test_unnamed_points_are_not_read_and_absent_ones_not_labelled(tmp_path: Path) -> None:
    notes = opened(keypoint_set(tmp_path, **category(None))).notes
    assert "annotations have keypoints that are not read" in notes[-1]
    dataset = opened(keypoint_set(tmp_path, annotations=[box(1, 70, 5, [2, 3, 14, 20])]))
    assert not dataset.truth.keypoints.any() and "objects without 'keypoints'" in dataset.notes[0]


def test_points_outside_the_image_are_a_warning(tmp_path: Path) -> None:
    dataset = opened(keypoint_set(tmp_path, **one([39.5, 29.5, 2, -1, 4, 1, 99, 99, 0])))
    assert "labelled keypoint outside its image" in str(dataset.problems[0])
    assert not opened(keypoint_set(tmp_path, **one([39.5, 29.5, 2, -0.5, 4, 1, 99, 99, 0]))).problems


def test_two_categories_with_the_same_points_share_them(tmp_path: Path) -> None:
    dataset = opened(keypoint_set(tmp_path, **category(list(POINTS), list(POINTS))))
    assert dataset.keypoints is not None and dataset.keypoints.names == POINTS


def test_sets_of_one_run_must_agree() -> None:
    a, b = Keypoints(("x", "y"), ((0, 1),)), Keypoints(("y", "x"), ((0, 1),))
    assert keypoints_differ({"one": a, "two": a, "three": None}) is None
    assert "the names of the keypoints of data sets 'one' and 'two' differ" in str(
        keypoints_differ({"one": a, "two": b})
    )
    assert "the flip pairs of" in str(keypoints_differ({"one": a, "two": Keypoints(("x", "y"))}))


def test_flip_pairs_count_in_the_digest(tmp_path: Path) -> None:
    plain = catalog.listing_digest(catalog.read_spec_file(keypoint_set(tmp_path))[0])
    paired = catalog.listing_digest(catalog.read_spec_file(keypoint_set(tmp_path, spec={"flip_pairs": []}))[0])
    assert plain != paired


@pytest.mark.d2
def test_equals_detectron2(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
    from detectron2.data.datasets.coco import load_coco_json

    file = keypoint_set(tmp_path)
    theirs = load_coco_json(str(tmp_path / "train.json"), str(tmp_path / "images"), "keypoints_loader_test")
    assert MetadataCatalog.get("keypoints_loader_test").thing_classes == ["person"]
    for ours, other in zip(opened(file).records, theirs, strict=True):
        assert [a["keypoints"] for a in ours["annotations"]] == [a["keypoints"] for a in other["annotations"]]
    meta = _get_builtin_metadata("coco_person")
    names = tuple(meta["keypoint_names"])
    full = keypoint_set(tmp_path, annotations=[], **category(list(names)))
    with pytest.raises(DatasetError, match="no object is annotated"):
        opened(full).check_scorable()
    keypoints = opened(full).keypoints
    assert keypoints is not None and keypoints.pairs is not None
    assert {(names[a], names[b]) for a, b in keypoints.pairs} == set(meta["keypoint_flip_map"])


def test_the_official_sets_are_known() -> None:
    (spec,) = catalog.resolve(["keypoints_coco_2017_val"])
    assert spec.classes == ("person",) and spec.json_file is not None
    assert spec.json_file.name == "person_keypoints_val2017.json" and np.char.endswith(str(spec.image_root), "val2017")
