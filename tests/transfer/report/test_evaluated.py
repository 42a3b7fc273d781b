"""Detections of all trials, read once: the first is kept, of all the found objects are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.transfer.report import trees
from transfer.evaluation.predictions import load_coco_json
from transfer.report.collect import collect
from transfer.report.disagreement import all_found
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
        assert found.seed == 1 and found.detections.keys() == loaded[0].keys()
        assert np.array_equal(found.objects, np.mean([all_found(data.records, one) for one in loaded], axis=0))


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
