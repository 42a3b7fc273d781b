"""How many images: of the data sets that rows name, of pre-trainings and probes as their results say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pretrain.runtime.result import RunResult
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.report.collect import collect
from transfer.report.collected import ExperimentReport
from transfer.report.markup import Markup
from transfer.report.sections.image_counts import Read, counts, table

TENTH = ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "DATALOADER.RANDOM_SUBSET_RATIO", "0.1"]


def _pretrained(root: Path, images: int) -> None:
    RunResult("pretrain", "pretrain", 0, "d", extra={"images": images}).save(root / "out" / "pretrain" / "moco")


def test_rows_and_the_pretraining_say_what_they_read(tmp_path: Path, generated: Path) -> None:
    rows = [trees.SUPERVISED, {**trees.MOCO, "opts": TENTH}, {"name": "not begun", "weights": None}]
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=1, rows=rows))
    trees.fill(plan, finished={"not-begun": 0})
    _pretrained(tmp_path, 1281167)
    assert counts(plan, collect(plan)) == {
        Read("pre-training 'moco'", "pre-training", 1281167): [],
        Read("generated_trainval", "training", 12): ["supervised IN-1M"],
        Read("generated_test", "testing", 6): ["supervised IN-1M", "MoCo <v2>"],
        Read("generated_trainval", "training, 0.1 of it in each trial", 12): ["MoCo <v2>"],
    }
    said = Page(table(plan, collect(plan)) or Markup("")).text
    assert "pre-training 'moco' pre-training 1,281,167" in said and "generated_test testing 6 all" in said


def test_probes_say_it_in_their_results(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=1))
    trees.fill(plan)
    (column,) = collect(plan).columns
    linear = RunResult("linear", "pretrain", 1, "d", extra={"images": {"train": 16, "val": 8}})
    row = replace(column.rows[0], job=None, results=(linear,))
    report = ExperimentReport("t", (replace(column, engine="linear", rows=(row,)),))
    name = "linear of frozen features"
    assert list(counts(plan, report)) == [Read(name, "training", 16), Read(name, "testing", 8)]


def test_data_that_are_gone_are_a_dash(tmp_path: Path, generated: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(generated, data)
    plan = trees.plan(trees.experiment_file(tmp_path, data, trials=1))
    trees.fill(plan)
    shutil.rmtree(data / "scenes")
    assert table(plan, collect(plan)) is None  # nothing is known
    _pretrained(tmp_path, 16)
    assert "generated_trainval training – all" in Page(table(plan, collect(plan)) or Markup("")).text
