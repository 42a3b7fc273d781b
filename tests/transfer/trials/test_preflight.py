"""What would end an experiment after its pre-training is refused before it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretrain.readers import READERS
from pretrain.runtime import checkpoint
from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from tests.transfer.convert.checkpoints import trunk
from tests.transfer.data.sets import CAT, box, picture
from tests.transfer.report import trees
from transfer.config.load import digest
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.trials import execute
from transfer.trials.aggregate import Aggregate
from transfer.trials.describe import describe
from transfer.trials.experiment import load_experiment
from transfer.trials.plan import Plan
from transfer.trials.preflight import refused
from transfer.trials.run import AGGREGATE_FILE


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an experiment on a COCO set of one image; no stage of it may begin."""
    picture(tmp_path / "train" / "a.jpg")
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [box(1, 1, 1, [2.0, 3.0, 20.0, 20.0])],
        "categories": [{"id": 1, "name": CAT}],
    }
    (tmp_path / "train.json").write_text(json.dumps(data))
    part = "{images: train, annotations: train.json}"
    (tmp_path / "s.yaml").write_text(f"name: s\nformat: coco\nroot: .\nsplits: {{train: {part}, val: {part}}}\n")
    (tmp_path / "pre").mkdir()
    monkeypatch.setattr(execute, "run_chain", lambda *_, **__: pytest.fail("a stage began"))

    def make(*more: str, classes: int = 1) -> Plan:
        config = str(ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml")
        opts = ["DATASETS.SPECS", f"('{tmp_path}/s.yaml',)", "DATASETS.TRAIN", "('s_train',)", "DATASETS.TEST"]
        opts += ["('s_val',)", "MODEL.ROI_HEADS.NUM_CLASSES", str(classes), *more]
        tiny = {"config": str(ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")}
        tiny["opts"] = ["DATA.TRAIN", str(tmp_path / "pre")]
        changes = {"pretrain": {"moco": tiny}, "transfer": {"config": config, "opts": opts}, "rows": [trees.MOCO]}
        file = trees.experiment_file(tmp_path, tmp_path, trials=1, **changes)
        return Plan(load_experiment(file), TorchvisionEngine(), ROOT / "tools")

    return make


def test_a_sound_experiment_begins(plan: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="a stage began"):
        execute.run(plan())


def test_what_the_engine_the_linter_or_the_data_refuses(plan: Any, tmp_path: Path) -> None:
    for opts, classes, message in (
        (("INPUT.CROP.ENABLED", "True"), 1, "the torchvision engine refuses:\n  INPUT.CROP.ENABLED"),
        (("SOLVER.STEPS", "(1000000,)"), 1, r"error \[steps"),
        ((), 80, "has 1 classes"),
    ):
        with pytest.raises(ConfigError, match="row 'MoCo <v2>' cannot train: [^$]*" + message):
            execute.run(plan(*opts, classes=classes))
        assert "row 'MoCo <v2>' cannot train: " in describe(plan(*opts, classes=classes))
    picture(tmp_path / "train" / "a.jpg", width=50)
    with pytest.raises(ConfigError, match="row 'MoCo <v2>' cannot train: .*is 50x30"):
        execute.run(plan())
    (tmp_path / "train.json").write_text('{"images": [{"id": 1, "fi')
    with pytest.raises(ConfigError, match="(?s)row 'MoCo <v2>' cannot train: .*train.json' is no json"):
        execute.run(plan())


def test_a_finished_row_is_not_asked_again(plan: Any, tmp_path: Path) -> None:
    whole = plan()
    column, row = whole.experiment.columns[0], whole.experiment.rows[0]
    job = row.job(column)
    made = Aggregate("torchvision", digest(whole.config(job.config, job.opts)), "ab", (1,), {})
    checkpoint.save_json(made.to_json(), whole.row_folder(column, row) / AGGREGATE_FILE)
    (tmp_path / "train.json").write_text('{"images": [{"id": 1, "fi')
    with pytest.raises(pytest.fail.Exception, match="a stage began"):
        execute.run(whole)
    (whole.row_folder(column, row) / AGGREGATE_FILE).write_text("{")  # written anew once the trials are done
    with pytest.raises(ConfigError, match="(?s)row 'MoCo <v2>' cannot train: .*train.json' is no json"):
        execute.run(whole)


def test_configs_of_the_other_half_are_read_too(tmp_path: Path, generated: Path) -> None:
    """A mistake in the second pre-training, or in a probe, would show once the first pre-training is over."""
    tiny, data = str(ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml"), str(generated / "iconic" / "train")
    where = ["DATA.TRAIN", data]
    probe = {"protocol": "linear", "config": str(ROOT / "configs" / "pretrain" / "lincls_R_50.yaml")}
    probe["opts"] = [*where, "DATA.VAL", data, "SOLVER.EPOCH", 3]
    changes = {
        "metrics": ["linear/acc1"],
        "pretrain": {name: {"config": tiny, "opts": [*where, "MODEL.T", t]} for name, t in (("a", 1.0), ("b", 0.0))},
        "rows": [{"name": name, "weights": {"pretrain": name}} for name in "ab"],
        "probe": probe,
    }
    content = yaml.safe_load(trees.experiment_file(tmp_path, generated, **changes).read_text())
    del content["transfer"]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(content))
    plan = Plan(load_experiment(tmp_path / "table.yaml"), TorchvisionEngine(), ROOT / "tools", readers=READERS)
    with pytest.raises(ConfigError) as raised:
        execute.run(plan)
    first, second = str(raised.value).splitlines()
    assert first.startswith("pre-training 'b' cannot train: MODEL.T is 0.0")
    assert second.startswith("linear of 'a', linear of 'b' cannot train: ") and "SOLVER.EPOCH" in second
    assert not plan.experiment.output.exists() and first in describe(plan)


def test_a_pretraining_that_leaves_another_trunk_than_the_detector_takes(plan: Any) -> None:
    """Known by the config, not first by the tensors that it leaves after days."""
    wrong = dataclasses.replace(plan("MODEL.RESNETS.DEPTH", "34"), readers=READERS)
    (line,) = refused(wrong)
    assert line.startswith("row 'MoCo <v2>' cannot train: ") and "34, but the weights (resnet18) have 18" in line
    assert refused(dataclasses.replace(plan(), readers=READERS)) == []


def test_images_processes_and_files_are_asked_for_before_a_run(plan: Any, tmp_path: Path) -> None:
    sound = dataclasses.replace(plan(), readers=READERS)
    with pytest.raises(ConfigError, match=r"^pre-training 'moco' cannot train: DATA.TRAIN '.*pre' holds no image"):
        execute.run(sound)
    picture(tmp_path / "pre" / "a.jpg")
    with pytest.raises(pytest.fail.Exception, match="a stage began"):
        execute.run(sound)
    (line,) = refused(dataclasses.replace(plan("SOLVER.IMS_PER_BATCH", "3"), num_gpus=2))
    assert "SOLVER.IMS_PER_BATCH 3 does not divide over 2 processes" in line and "--auto-scale 2" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [({"a": torch.zeros(2)}, "no known layout fits"), (trunk(34), "have 34: set it to 34"), (trunk(18), "")],
)
def test_a_row_whose_file_does_not_fit(plan: Any, tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    own = plan()
    row = dataclasses.replace(own.experiment.rows[0], pretrain=None, file=tmp_path / "w.pth")
    own = dataclasses.replace(own, experiment=dataclasses.replace(own.experiment, rows=(row,), pretrain={}))
    said = "\n".join(refused(own, thorough=True))
    assert said.startswith("row 'MoCo <v2>' cannot train: ") and message in said if message else said == ""
    assert refused(own) == []
