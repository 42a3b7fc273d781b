"""What is on disk is read as it is: finished, begun, missing, broken, or of something else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pretrain.runtime import checkpoint
from tests.transfer.report import trees
from transfer.evaluation.protocols import PROTOCOLS
from transfer.report.collect import collect
from transfer.report.tables import text
from transfer.trials.failure import write_failure
from transfer.trials.plan import Plan
from transfer.trials.run import AGGREGATE_FILE, trial_folder


@pytest.fixture
def plan(tmp_path: Path, generated: Path) -> Plan:
    return trees.plan(trees.experiment_file(tmp_path, generated, trials=3))


def one_changed(ap50: float) -> dict[str, float]:
    return {"bbox/AP50": ap50, "bbox/AP": 50.0, "bbox/AP75": 50.0}


def test_complete_rows(plan: Plan) -> None:
    trees.fill(plan)
    report = collect(plan)
    assert [row.state for row in report.columns[0].rows] == ["3 trials", "3 trials"] and not report.columns[
        0
    ].unfinished
    assert [row.problems for row in report.columns[0].rows] == [(), ()]
    for row in report.columns[0].rows:
        assert row.statistic("bbox/AP50").values == tuple(r.metrics["bbox/AP50"] for r in row.results)  # type: ignore[union-attr]
        assert sorted(row.curves) == [1, 2, 3] and row.protocol is PROTOCOLS["voc07"]
    assert report.columns[0].baseline.name == "supervised IN-1M" and report.columns[0].rows[1].pretrain == "moco"
    assert report.pretrainings[0].result is not None and len(report.pretrainings[0].curve) == 120
    assert report.conversions["moco"]["arch"] == "resnet18"
    assert "tools/reproduce.py" in report.command and "--engine torchvision" in report.command


def test_nothing_there(plan: Plan) -> None:
    report = collect(plan)
    assert [row.state for row in report.columns[0].rows] == ["0 of 3 trials", "0 of 3 trials"]
    assert report.conversions == {} and report.pretrainings[0].result is None
    assert "0 of 3 trials" in text(collect(plan))


def test_unfinished_row(plan: Plan) -> None:
    trees.fill(plan, finished={"moco-v2": 1})
    report = collect(plan)
    assert (
        report.columns[0].rows[1].state == "1 of 3 trials, 1 more started"
        and report.columns[0].rows[1].aggregate is None
    )
    assert report.columns[0].unfinished == (report.columns[0].rows[1],)


def test_trials_without_their_file_are_averaged_here(plan: Plan) -> None:
    trees.fill(plan)
    (trees.row_folder(plan, 0) / AGGREGATE_FILE).unlink()
    assert collect(plan).columns[0].rows[0].aggregate is not None


def test_a_row_of_another_number_of_trials_is_not_taken(plan: Plan, tmp_path: Path, generated: Path) -> None:
    trees.fill(plan)
    more = trees.plan(trees.experiment_file(tmp_path, generated, trials=5))
    assert [row.state for row in collect(more).columns[0].rows] == ["3 of 5 trials", "3 of 5 trials"]


def test_only_the_aggregate_was_kept(plan: Plan) -> None:
    trees.fill(plan)
    folder = trees.row_folder(plan, 0)
    for seed in plan.experiment.columns[0].seeds:
        (trial_folder(folder, seed) / "result.json").unlink()
    row = collect(plan).columns[0].rows[0]
    assert row.state == "3 trials" and row.results == () and len(row.values("bbox/AP50")) == 3


def test_the_row_of_an_earlier_config_is_not_shown_while_its_trials_are_made_anew(plan: Plan) -> None:
    """A changed config sets the trials aside, one by one as they are run; the recorded row stays until all have run."""
    trees.fill(plan)
    column, row = plan.experiment.columns[0], plan.experiment.rows[0]
    folder = plan.row_folder(column, row)
    for seed in column.seeds:
        trial_folder(folder, seed).rename(folder / f"seed_{seed}.stale1")
    assert collect(plan).columns[0].rows[0].state == "3 trials"  # trials that are only gone
    path = folder / AGGREGATE_FILE
    for field, value in (("config_digest", "aaaa"), ("engine", "detectron2"), ("seeds", [1, 2, 4])):
        kept = path.read_text()
        checkpoint.save_json(json.loads(kept) | {field: value}, path)
        assert collect(plan).columns[0].rows[0].state == "0 of 3 trials", field
        path.write_text(kept)
    trees.trial(plan, row, 1, 5, metrics=one_changed(10.0))  # the first one anew, of the same config
    found = collect(plan).columns[0].rows[0]
    assert found.state == "1 of 3 trials" and found.statistic("bbox/AP50") is None


def test_an_aggregate_that_disagrees_with_the_results(plan: Plan) -> None:
    trees.fill(plan)
    row = plan.experiment.rows[0]
    trees.trial(plan, row, 2, 5, metrics=one_changed(10.0))
    found = collect(plan).columns[0].rows[0]
    assert any("disagrees" in p for p in found.problems) and 10.0 in found.values("bbox/AP50")


def test_trials_that_do_not_belong_together_are_not_averaged(plan: Plan) -> None:
    trees.fill(plan)
    trees.trial(plan, plan.experiment.rows[1], 2, 5, weights_sha256="0" * 64)
    row = collect(plan).columns[0].rows[1]
    assert row.aggregate is None and row.state == "not averaged"
    assert any("weights_sha256" in p for p in row.problems) and "never mixes" in " ".join(text(collect(plan)).split())


def test_a_trial_without_a_number_is_not_averaged_away(plan: Plan) -> None:
    trees.fill(plan)
    trees.trial(plan, plan.experiment.rows[0], 3, 5, metrics=one_changed(math.nan))
    row = collect(plan).columns[0].rows[0]
    assert (
        row.aggregate is None and any("not a number" in p for p in row.problems) and len(row.values("bbox/AP50")) == 2
    )


def test_results_of_another_config_are_called_so(plan: Plan) -> None:
    trees.fill(plan)
    for seed in plan.experiment.columns[0].seeds:
        trees.trial(plan, plan.experiment.rows[0], seed, 5, config_digest="another")
    assert any("config digest another" in p for p in collect(plan).columns[0].rows[0].problems)


def test_unreadable_files_are_problems_not_crashes(plan: Plan) -> None:
    trees.fill(plan)
    folder = trees.row_folder(plan, 0)
    trees.broken_json(folder / AGGREGATE_FILE)
    checkpoint.save_json({"kind": "train"}, trial_folder(folder, 1) / "result.json")
    row = collect(plan).columns[0].rows[0]
    assert row.state == "2 of 3 trials" and len(row.problems) == 2 and "delete it" in row.problems[0]


def test_a_failed_trial_is_said_and_nothing_is_averaged_without_it(plan: Plan) -> None:
    """Even where the mean of an earlier, complete row is still recorded."""
    trees.fill(plan)
    trial = trial_folder(trees.row_folder(plan, 0), 2)
    (trial / "result.json").unlink()
    write_failure(trial, "the loss is\nnan")
    write_failure(plan.experiment.output / "converted" / "moco", "no such tensor")
    first, second = collect(plan).columns[0].rows
    assert first.state == "2 of 3 trials, 1 failed" and first.aggregate is None and first.started == ()
    assert first.failed == {2: "the loss is nan"} and first.problems == ("seed 2 failed: the loss is nan",)
    assert second.problems == ("conversion failed: no such tensor",)
    assert "so not averaged" in text(collect(plan))


def test_results_of_an_earlier_version_are_shown_without_a_verdict_and_that_is_said_once(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    trees.fill(plan)
    for row in plan.experiment.rows:
        for seed in plan.experiment.columns[0].seeds:
            trees.trial(plan, row, seed, 5, extra={"generated_test": {"metric": "11-point", "per_class": {}}})
    assert "verdict" not in text(collect(plan)) and "this project's rule" not in text(collect(plan))
    caplog.clear()
    report = collect(plan)
    assert [row.protocol for row in report.columns[0].rows] == [None, None]
    assert sum("do not name the protocol" in record.message for record in caplog.records) == 1
