"""What the keypoint task refuses before a training, one sentence each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.errors import ExpectedError
from tests.conftest import ROOT
from tests.transfer.data.sets import POINTS, box, keypoint_set
from transfer.config.load import load_config
from transfer.engines.data import open_run_data
from transfer.tasks import task_of
from transfer.tasks.keypoints import KEYPOINTS, trainable

CONFIG = ROOT / "configs" / "transfer" / "coco" / "keypoint_rcnn_R_18_FPN_small_moco.yaml"


def config(file: Path, *opts: str) -> Any:
    names = ["DATASETS.TRAIN", "('poses_train',)", "DATASETS.TEST", "('poses_train',)"]
    points = ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "3", "TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1, 0.1]"]
    return load_config(CONFIG, ["DATASETS.SPECS", f"('{file}',)", *names, *points, *opts])


def test_a_sound_set_passes(tmp_path: Path) -> None:
    cfg = config(keypoint_set(tmp_path))
    assert task_of(cfg) is KEYPOINTS and open_run_data(cfg, training=True).task is KEYPOINTS
    assert not [finding for finding in KEYPOINTS.lint(cfg)]


def unpaired() -> dict[str, Any]:
    return {"categories": [{"id": 5, "name": "person", "keypoints": ["a", "b", "c"]}]}


def unlabelled() -> dict[str, Any]:
    none, seen = [0] * 9, [1, 1, 2] * 3
    return {
        "annotations": [
            box(1, 70, 5, [2, 3, 14, 20], keypoints=none),
            box(2, 0, 5, [2, 3, 14, 20], keypoints=seen, iscrowd=1),
        ]
    }


@pytest.mark.parametrize(
    ("changes", "opts", "message"),
    [
        (unpaired(), [], "RANDOM_FLIP is horizontal, but which keypoints .* give flip_pairs"),
        (unlabelled(), [], "no image of training set 'poses_train' has 1 labelled keypoints"),
        ({}, ["MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "6"], "has 6 labelled keypoints .* lower MODEL"),
        ({}, ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "4"], "NUM_KEYPOINTS is 4, but .* has 3 .nose, left_hand"),
        ({"categories": [{"id": 5, "name": "person"}]}, [], "'poses_train' has no keypoints"),
        ({}, ["TEST.KEYPOINT_OKS_SIGMAS", "[]"], "SIGMAS is empty, .* but there are 3 keypoints"),
        ({}, ["TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"], "SIGMAS has 1 numbers, but there are 3 keypoints"),
        ({}, ["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], "Res5ROIHeads has no keypoint head"),
    ],
)
def test_what_cannot_be_trained_or_scored_is_refused(
    tmp_path: Path, changes: dict[str, Any], opts: list[str], message: str
) -> None:
    with pytest.raises(ExpectedError, match=message) as raised:
        open_run_data(config(keypoint_set(tmp_path, **changes), *opts), training=True)
    assert "\n" not in str(raised.value)


def test_without_a_flip_no_pairs_are_needed(tmp_path: Path) -> None:
    run = open_run_data(config(keypoint_set(tmp_path, **unpaired()), "INPUT.RANDOM_FLIP", "none"), training=True)
    assert run.train[0].keypoints.pairs is None
    run = open_run_data(config(keypoint_set(tmp_path, spec={"flip_pairs": []}, **unpaired())), training=True)
    assert run.train[0].keypoints.pairs == ()


def test_a_test_set_needs_a_labelled_point(tmp_path: Path) -> None:
    with pytest.raises(ExpectedError, match="no object of test set 'poses_train' has a labelled keypoint"):
        open_run_data(config(keypoint_set(tmp_path, **unlabelled())), training=False)


def test_a_set_without_keypoints_of_another_format_is_refused(tmp_path: Path, generated: Path) -> None:
    cfg = config(
        generated / "voc.yaml", "DATASETS.TRAIN", "('generated_trainval',)", "DATASETS.TEST", "('generated_test',)",
        "MODEL.ROI_HEADS.NUM_CLASSES", "8",
    )  # fmt: skip
    with pytest.raises(ExpectedError, match="none of which scores the task 'keypoints'"):
        open_run_data(cfg, training=True)


def test_sets_of_a_run_must_have_the_same_points(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    a = keypoint_set(tmp_path / "a")
    other = [{"id": 5, "name": "person", "keypoints": [POINTS[0], POINTS[2], POINTS[1]]}]
    b = keypoint_set(tmp_path / "b", "others_train", categories=other)
    cfg = config(a, "DATASETS.SPECS", f"('{a}', '{b}')", "DATASETS.TEST", "('others_train',)")
    with pytest.raises(
        ExpectedError, match="names of the keypoints of data sets 'poses_train' and 'others_train' differ"
    ):
        open_run_data(cfg, training=True)


def test_lint(tmp_path: Path) -> None:
    cfg = config(
        keypoint_set(tmp_path),
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
        "0.0",
        "MODEL.ROI_HEADS.NAME",
        "Res5ROIHeadsExtraNorm",
    )
    found = {finding.code: finding.level for finding in KEYPOINTS.lint(cfg)}
    assert found == {"keypoint-beta": "warning", "keypoint-heads": "error"}


def test_trainable_images() -> None:
    def record(*objects: tuple[list[float], int]) -> dict[str, Any]:
        return json.loads(json.dumps({"annotations": [{"keypoints": k, "iscrowd": c} for k, c in objects]}))

    seen, none = [1.5, 1.5, 2, 3, 3, 1], [0.5, 0.5, 0, 0.5, 0.5, 0]
    assert trainable(record((seen, 0)), 2) and not trainable(record((seen, 0)), 3)
    assert not trainable(record((seen, 1), (none, 0)), 1) and trainable(record((seen, 1), (seen, 0)), 4)
