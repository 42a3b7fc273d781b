"""Detections of all trials: the first is shown, of all the found objects are counted, and none is read twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.transfer.report import trees
from transfer.evaluation.objects_found import finders, objects
from transfer.evaluation.predictions import load_coco_json
from transfer.report import evaluated
from transfer.report.collect import collect
from transfer.report.evaluated import read
from transfer.trials.run import trial_folder


def test_first_trial_and_mean_over_all(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=3))
    trees.fill(plan, finished={"moco-v2": 2})
    report = collect(plan).columns[0]
    (data,) = read(plan, report)
    assert data.dataset.name == "generated_test" and [found.trials for found in data.rows] == [3, 2]
    for found, row in zip(data.rows, report.rows, strict=True):
        files = [trial_folder(row.folder, s) / "predictions_generated_test.json" for s in range(1, found.trials + 1)]
        loaded = [{d.image_id: d for d in load_coco_json(file, range(1, 9))} for file in files]
        counts = [[len(finders(r, one.get(r["image_id"]))) for r in data.records] for one in loaded]
        assert found.seed == 1 and np.array_equal(found.objects, np.mean(counts, axis=0))
        assert found.detections.keys() == {r["image_id"] for r in data.records if objects(r)} & loaded[0].keys()
        assert found.curves is not None and found.curves.label == "AP50"


def test_detections_are_read_by_the_first_report_alone(
    tmp_path: Path, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan)
    report = collect(plan).columns[0]
    (first,) = read(plan, report)
    with monkeypatch.context() as m:
        m.setattr(evaluated, "load_coco_json", None)
        (again,) = read(plan, report)
    for one, other in zip(first.rows, again.rows, strict=True):
        assert np.array_equal(one.objects, other.objects) and one.detections.keys() == other.detections.keys()
    file = trial_folder(report.rows[0].folder, 1) / "predictions_generated_test.json"
    file.write_text("[]")  # other detections: their old summary is not shown
    (now,) = read(plan, report)
    assert now.rows[0].detections == {} and now.rows[0].objects.sum() < first.rows[0].objects.sum()


def test_trials_without_detections_are_left_out(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan)
    report = collect(plan).columns[0]
    for seed in (1, 2):
        (trial_folder(report.rows[1].folder, seed) / "predictions_generated_test.json").unlink()
    (trial_folder(report.rows[0].folder, 1) / "predictions_generated_test.json").write_text("[")
    (data,) = read(plan, report)
    assert [(found.row, found.seed, found.trials) for found in data.rows] == [("supervised IN-1M", 2, 1)]
    assert data.row(1) is None and data.row(0) is data.rows[0]
