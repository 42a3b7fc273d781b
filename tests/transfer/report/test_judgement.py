"""A finding's verdict, against the overlap of two intervals written down by hand; and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from pretrain.runtime.config import ConfigError
from tests.transfer.report import trees
from transfer.evaluation.metric import Metric
from transfer.report.collect import collect
from transfer.report.judgement import Verdict, judge, judged
from transfer.report.report import write_report
from transfer.report.tables import text
from transfer.trials.aggregate import Statistic, statistic
from transfer.trials.rows import Column, Finding

KNN = Metric("knn/acc1", "kNN top-1")
COLUMN = Column("", 5, (KNN,))
FINDING = Finding("momentum helps", "MoCo", COLUMN, "m = 0.99", COLUMN, "m = 0", KNN)
CLAIM = {"claim": "MoCo is ahead of supervised", "source": "Table 2", "row": "MoCo <v2>", "than": "supervised IN-1M",
         "metric": "AP", "unless": "too few trials"}  # fmt: skip


def bounds(values: list[float]) -> tuple[float, float]:
    s = statistic(values)
    assert s.std is not None
    half = stats.t.ppf(0.975, s.n - 1) * s.std / s.n**0.5
    return s.mean - half, s.mean + half


@pytest.mark.parametrize(
    ("row", "than", "verdict"),
    [
        ([50.0, 51.0, 52.0], [40.0, 41.0, 42.0], "shows"),
        ([40.0, 41.0, 42.0], [50.0, 51.0, 52.0], "reversed"),
        ([50.0, 55.0, 60.0], [48.0, 50.0, 52.0], "does not show"),
        # the difference's own interval is above 0, but the two means' intervals overlap: the stricter rule decides
        ([45.0, 46.0, 47.0, 46.0, 46.0], [44.0, 45.0, 46.0, 44.0, 44.0], "does not show"),
        ([50.0], [40.0], "open"),
        ([50.0, 50.0], [40.0, 40.0], "shows"),
    ],
)
def test_verdict_is_that_of_the_intervals(row: list[float], than: list[float], verdict: Verdict) -> None:
    found = judge(FINDING, statistic(row), statistic(than))
    assert found.verdict == verdict
    if verdict not in ("open",) and len(row) > 2:
        above, beneath = bounds(row), bounds(than)
        assert (above[0] > beneath[1]) == (verdict == "shows")
        assert (above[1] < beneath[0]) == (verdict == "reversed")
    if verdict == "does not show" and len(row) == 5:
        assert found.versus is not None and found.versus.low > 0


@pytest.mark.parametrize("missing", ["row", "than"])
def test_open_until_both_rows_are_there(missing: str) -> None:
    sides: dict[str, Statistic | None] = {"row": statistic([1.0, 2.0]), "than": statistic([3.0, 4.0]), missing: None}
    found = judge(FINDING, sides["row"], sides["than"])
    assert found.verdict == "open" and found.numbers == "" and found.words == "not all trials are there"


def test_one_trial_is_not_called_missing() -> None:
    assert judge(FINDING, statistic([1.0]), statistic([2.0])).words.startswith("one trial has no spread")


def test_shown_in_report_table_and_json(generated: Path, tmp_path: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, findings=[CLAIM]))
    trees.fill(plan)
    (found,) = judged(collect(plan))
    assert found.verdict == "shows" and found.versus is not None
    assert found.versus.difference == pytest.approx(3.5, abs=0.5)
    assert "MoCo is ahead of supervised (Table 2): shows; 56." in text(collect(plan))
    page = write_report(plan).read_text()
    assert 'id="findings"' in page and "MoCo is ahead of supervised" in page and "too few trials" not in page
    table = json.loads((plan.experiment.output / "table-torchvision.json").read_text())
    assert [f["verdict"] for f in table["findings"]] == ["shows"]
    assert "MoCo is ahead of supervised" in (plan.experiment.output / "table-torchvision.md").read_text()


def test_open_while_trials_are_missing(generated: Path, tmp_path: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, findings=[CLAIM]))
    trees.fill(plan, {"supervised-in-1m": 5, "moco-v2": 3})
    assert "MoCo is ahead of supervised (Table 2): open" in text(collect(plan))
    assert "not all trials are there" in write_report(plan).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": "MoCo"}, r"findings\[0\]: no row that is run is called 'MoCo'.*supervised IN-1M, MoCo <v2>"),
        ({"than": "MoCo <v2>"}, "row and than are both 'MoCo <v2>'; a finding compares two rows"),
        ({"metric": "knn/acc1"}, r"findings\[0\]: no metric is called 'knn/acc1'"),
        ({"metric": "segm/AP"}, r"findings\[0\]: metric segm/AP is none of the column's .*add it to `metrics`"),
        ({"than_column": "VOC"}, r"findings\[0\]: no column is called 'VOC' .*leave `column` out"),
        ({"column": "VOC"}, r"findings\[0\]: no column is called 'VOC' .*leave `column` out"),
        ({"claim": ""}, "claim: is empty; give some text"),
        ({"better": "x"}, "better: is not known"),
    ],
)
def test_bad_findings(changes: dict[str, str], message: str, generated: Path, tmp_path: Path) -> None:
    file = trees.experiment_file(tmp_path, generated, findings=[CLAIM | changes])
    with pytest.raises(ConfigError, match=message):
        trees.plan(file)
