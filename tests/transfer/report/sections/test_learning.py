"""Learning curves: evaluations on the way, up to the results."""

from __future__ import annotations

from pathlib import Path

from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.result import RunResult
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.report.collect import collect
from transfer.report.markup import Markup
from transfer.report.sections.learning import _evaluated, learning
from transfer.trials.plan import Plan
from transfer.trials.run import trial_folder


def _titles(plan: Plan) -> list[str | None]:
    return [chart["aria-label"] for chart in Page(learning(collect(plan)) or Markup("")).all("svg")]


def _evaluate(plan: Plan, row: int, seed: int, **numbers: float) -> None:
    """Writes an AP after each of these iterations, as an engine with TEST.EVAL_PERIOD does."""
    folder = trial_folder(trees.row_folder(plan, row), seed)
    with MetricsWriter(folder, tensorboard=False) as out:
        for i in range(1, 5):
            out.write(50 * i - 1, total_loss=1.0)
            if f"i{50 * i}" in numbers:
                out.write(50 * i - 1, **{"bbox/AP": numbers[f"i{50 * i}"]})


def test_without_evaluations_on_the_way_there_is_no_figure_of_them(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan)
    assert len(_titles(plan)) == 3 and not any("over iterations" in (title or "") for title in _titles(plan))


def test_evaluations_lead_up_to_the_result(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan, finished={"moco-v2": 1})
    for seed in (1, 2):
        _evaluate(plan, 1, seed, i50=10.0, i100=30.0 + seed)
    row = collect(plan).rows[1]
    first, second = _evaluated(row, "bbox/AP")
    final = RunResult.load(trial_folder(trees.row_folder(plan, 1), 1)).metrics["bbox/AP"]
    assert [(p["iteration"], p["bbox/AP"]) for p in first] == [(49, 10.0), (99, 31.0), (23999, final)]
    assert [(p["iteration"], p["bbox/AP"]) for p in second] == [(49, 10.0), (99, 32.0)]  # it still runs
    assert list(_evaluated(collect(plan).rows[0], "bbox/AP")) == [] and list(_evaluated(row, "bbox/AP50")) == []
    (title,) = (title for title in _titles(plan) if "over iterations" in (title or ""))
    assert title == (
        f"AP over iterations, first to last point: MoCo <v2> 10.00 to {final:.2f}; MoCo <v2> 10.00 to 32.00."
    )


def test_an_engine_that_writes_its_last_evaluation_has_it_once(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=1))
    trees.fill(plan)
    trees.trial(plan, plan.experiment.rows[1], 1, 3, iterations=200)
    _evaluate(plan, 1, 1, i100=30.0, i200=40.0)
    (found,) = _evaluated(collect(plan).rows[1], "bbox/AP")
    assert [p["iteration"] for p in found] == [99, 199]
