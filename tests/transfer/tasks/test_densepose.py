"""What the DensePose task refuses before a training, one sentence each; other tasks leave its configs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.errors import ExpectedError
from tests.conftest import ROOT
from tests.transfer.data.densepose_sets import contents, write
from tests.transfer.data.sets import keypoint_set
from transfer.config.lint import ERROR
from transfer.config.load import load_config
from transfer.data.densepose import RANGES
from transfer.engines.data import open_run_data
from transfer.engines.select import select
from transfer.tasks import TASKS, task_of
from transfer.tasks.densepose import DENSEPOSE
from transfer.tasks.inspect import inspect

CONFIG = ROOT / "configs" / "transfer" / "densepose" / "densepose_rcnn_R_50_FPN_s1x_moco.yaml"


def config(file: Path, *opts: str) -> Any:
    names = ["DATASETS.TRAIN", "('people_val',)", "DATASETS.TEST", "('people_val',)"]
    return load_config(CONFIG, ["DATASETS.SPECS", f"('{file}',)", *names, *opts])


def test_a_sound_set_passes(tmp_path: Path) -> None:
    cfg = config(write(tmp_path))
    assert [task.name for task in TASKS.values() if task.applies(cfg)] == ["densepose"]
    assert open_run_data(cfg, training=True).task is DENSEPOSE and open_run_data(cfg, training=False)
    assert not inspect(cfg, None)


def test_it_is_no_keypoint_task_with_both(tmp_path: Path) -> None:
    assert task_of(config(write(tmp_path), "MODEL.KEYPOINT_ON", "True")) is DENSEPOSE


REFUSED = [
    (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "ROI_HEADS.NAME: StandardROIHeads .* set it to DensePoseROIHeads"),
    (["MODEL.MASK_ON", "True"], "MODEL.MASK_ON: True does not go with MODEL.DENSEPOSE_ON: set it to False"),
    (["MODEL.KEYPOINT_ON", "True"], "MODEL.KEYPOINT_ON: True does not go with"),
    (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED: True does not go with"),
    (["INPUT.RANDOM_FLIP", "vertical"], "INPUT.RANDOM_FLIP: .* set it to horizontal or none"),
    (["MODEL.ROI_DENSEPOSE_HEAD.NAME", ""], "ROI_DENSEPOSE_HEAD.NAME: it is empty; .* DensePoseV1ConvXHead"),
    (["MODEL.ROI_HEADS.NUM_CLASSES", "2"], "NUM_CLASSES is 2, but data set 'people_val' has 1"),
]


@pytest.mark.parametrize(("opts", "message"), REFUSED, ids=[opts[0] for opts, _ in REFUSED])
def test_settings_that_do_not_go_with_it(tmp_path: Path, opts: list[str], message: str) -> None:
    """By training, evaluation and the linter."""
    cfg = config(write(tmp_path), *opts)
    for training in (True, False):
        with pytest.raises(ExpectedError, match=message) as raised:
            open_run_data(cfg, training)
        assert "\n" not in str(raised.value)
    assert [f.level for f in inspect(cfg, None) if f.key == opts[0]] == [ERROR]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.DENSEPOSE_ON", "False"], "NAME is DensePoseROIHeads, but MODEL.DENSEPOSE_ON is False; set it to True"),
        (["MODEL.ROI_DENSEPOSE_HEAD.HEATMAP_SIZE", "112"], "HEATMAP_SIZE is 112; .* set it to 56"),
        (["MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS", "14"], "NUM_COARSE_SEGM_CHANNELS is 14; .* 2 or 15"),
        (["MODEL.ROI_DENSEPOSE_HEAD.POOLER_TYPE", "RoIAlign"], "POOLER_TYPE is 'RoIAlign'; .* did you mean ROIAlign"),
    ],
)
def test_values_that_no_engine_could_follow(tmp_path: Path, opts: list[str], message: str) -> None:
    with pytest.raises(ExpectedError, match=message):
        config(write(tmp_path), *opts)


@pytest.mark.parametrize("crowd", [False, True])
def test_a_set_without_points(tmp_path: Path, crowd: bool) -> None:
    data = contents()
    for annotation in data["annotations"]:
        if crowd:
            annotation["iscrowd"] = int("dp_x" in annotation)
        else:
            [annotation.pop(key, None) for key in RANGES]
    cfg = config(write(tmp_path, data))
    with pytest.raises(ExpectedError, match="no object of training set 'people_val' .* has points of DensePose"):
        open_run_data(cfg, training=True)
    with pytest.raises(ExpectedError, match="no object of test set|no annotation has dp_x, dp_y"):
        open_run_data(cfg, training=False)


def test_a_set_of_another_format(tmp_path: Path) -> None:
    file = keypoint_set(tmp_path)
    cfg = config(file, "DATASETS.TRAIN", "('poses_train',)", "DATASETS.TEST", "('poses_train',)")
    with pytest.raises(ExpectedError, match="none of which scores the task 'densepose'"):
        open_run_data(cfg, training=True)


def test_boxes_alone_can_be_trained_on_its_sets(tmp_path: Path) -> None:
    cfg = config(write(tmp_path), "MODEL.DENSEPOSE_ON", "False", "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    assert open_run_data(cfg, training=True).task.name == "instances"


def test_the_torchvision_engine_refuses_it_before_anything(tmp_path: Path) -> None:
    cfg = config(write(tmp_path), "OUTPUT_DIR", str(tmp_path / "run"))
    for job in (select("torchvision").train, select("torchvision").evaluate):
        with pytest.raises(ExpectedError, match="^the torchvision engine does not do the task 'densepose'") as raised:
            job(cfg)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
