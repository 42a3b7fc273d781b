"""The table says what the aggregates say, and nothing that they do not."""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import pytest
from scipy import stats

from pretrain.runtime.result import RunResult
from transfer.report import latex
from transfer.report.collected import ColumnReport, ExperimentReport, RowReport
from transfer.report.sections import summary
from transfer.report.table_files import markdown, to_csv, to_json
from transfer.report.tables import Cell, comparisons, signed, text, verdicts
from transfer.report.tables import cell as cell_of
from transfer.trials.aggregate import aggregate
from transfer.trials.metrics import find

PUBLISHED = {"bbox/AP50": 81.5, "bbox/AP": 55.9}


def results(ap50: list[float], protocol: str | None = "voc07", **fields: Any) -> tuple[RunResult, ...]:
    """One trial per value; AP is 20 points lower."""
    details = {"per_class": {}} | ({"protocol": protocol} if protocol else {"metric": "11-point"})
    return tuple(
        RunResult("train", "torchvision", seed, "d", metrics={"bbox/AP50": v, "bbox/AP": v - 20, "segm/AP": v - 30},
                  extra={"voc_2007_test": details}, **fields)
        for seed, v in enumerate(ap50, 1)
    )  # fmt: skip


def row(
    name: str, ap50: list[float], wanted: int | None = None, protocol: str | None = "voc07", **fields: Any
) -> RowReport:
    found = results(ap50, protocol)
    seeds = tuple(range(1, (wanted or len(ap50)) + 1))
    mean = aggregate(found) if len(found) == len(seeds) else None
    return RowReport(name, name.lower(), "random", seeds, found, mean, **fields)


def column(
    *rows: RowReport, metrics: tuple[str, ...] = ("AP50", "AP"), source: str = "Paper, Table 2", name: str = ""
) -> ColumnReport:
    found = tuple(map(find, metrics))
    return ColumnReport(name, name.lower(), source, "torchvision", found, rows[0].seeds, rows)


def whole(*columns: ColumnReport) -> ExperimentReport:
    return ExperimentReport("A title", columns)


def report(*rows: RowReport, **changes: Any) -> ExperimentReport:
    """A table of one column."""
    return whole(column(*rows, **changes))


def cell(c: ColumnReport, row: RowReport, name: str) -> Cell:
    return cell_of(c, row, find(name))


def test_signed_has_no_negative_zero() -> None:
    assert [signed(x) for x in (0.26, -0.26, -0.04, 0.04)] == ["+0.3", "-0.3", "0.0", "0.0"]


def test_mean_std_published_and_difference() -> None:
    """80, 81, 82: mean 81, sample std 1; published 81.5, so -0.5."""
    table = text(report(row("MoCo", [80.0, 81.0, 82.0], published=PUBLISHED)))
    ours, theirs = (next(line for line in table.splitlines() if line.startswith(x)) for x in ("MoCo ", "  published"))
    assert ours.split() == ["MoCo", "3", "81.0", "±", "1.0", "61.0", "±", "1.0"]
    assert theirs.split() == ["published", "81.5", "(-0.5)", "55.9", "(+5.1)"]
    assert "Published: Paper, Table 2." in table and "torchvision engine" in table and "n = 3 trials" in table


def test_published_numbers_without_source_are_called_so() -> None:
    assert "names no source" in text(report(row("MoCo", [80.0, 81.0], published=PUBLISHED), source=""))
    assert "Published" not in text(report(row("MoCo", [80.0, 81.0])))


def test_one_trial_has_no_std_and_no_verdict() -> None:
    r = column(row("MoCo", [80.0], published=PUBLISHED))
    table = text(whole(r))
    assert "±" not in table.split("\n\n", 1)[1] and "no std" in table
    assert verdicts(r) == []
    assert cell(r, r.rows[0], "AP50").gap == pytest.approx(-1.5)


def test_missing_trials_are_not_averaged() -> None:
    r = column(row("MoCo", [80.0, 81.0, 84.0], wanted=5, started=(4,), published=PUBLISHED), row("Full", [1.0] * 5))
    table = text(whole(r))
    assert "3 of 5 trials" in table and "81.7" not in table and "(so far AP50 80.0, 81.0, 84.0;" in table
    assert cell(r, r.rows[0], "AP50").statistic is None and cell(r, r.rows[0], "AP50").gap is None
    assert r.rows[0].state == "3 of 5 trials, 1 more started" and r.rows[0].values("bbox/AP50") == (80.0, 81.0, 84.0)
    assert r.unfinished == (r.rows[0],)
    assert "no trial" not in markdown(whole(r)) and "3 of 5 trials" in markdown(whole(r))


def test_unknown_metric_is_a_dash() -> None:
    r = report(row("MoCo", [80.0, 81.0]), metrics=("AP50", "APs"))
    assert text(r).splitlines()[-1].split() == ["MoCo", "2", "80.5", "±", "0.7", "-"]


def test_mask_metrics_by_their_full_name() -> None:
    r = column(row("MoCo", [80.0, 81.0], published={"segm/AP": 50.0}), metrics=("segm/AP",))
    assert "mask AP" in text(whole(r)) and "50.0 (+0.5)" in text(whole(r))
    assert verdicts(r) == []  # no rule covers masks on VOC


def test_gain_is_over_the_supervised_row_else_the_first() -> None:
    a, b, c = row("Random", [60.0, 60.0]), row("Supervised IN-1M", [80.0, 80.0]), row("MoCo", [81.0, 81.0])
    r = column(a, b, c)
    assert r.baseline is b
    assert [cell(r, x, "AP50").gain for x in r.rows] == [pytest.approx(-20), None, pytest.approx(1)]
    assert column(a, c).baseline is a


def test_verdicts_follow_the_bands() -> None:
    r = column(row("MoCo", [81.4, 81.5, 81.6, 81.5, 81.5], published=PUBLISHED))
    assert [(m.label, v.status) for _, m, v in verdicts(r)] == [("AP50", "within"), ("AP", "above")]
    table = " ".join(text(whole(r)).split())
    assert "verdict within noise of the paper above by 5.6 (outside)" in table
    assert "by this project's rule" in table and "1 of 2." in table and "MoCo, AP: " in table


def test_problems_are_said_beneath() -> None:
    assert "MoCo: made with engine x." in text(report(row("MoCo", [80.0, 81.0], problems=("made with engine x",))))


def test_markdown_json_and_csv_agree() -> None:
    r = report(row("Mo|Co", [80.0, 81.0, 82.0], published=PUBLISHED), row("Half", [70.0], wanted=3))
    assert "| Mo\\|Co | 3 | 81.0 ± 1.0 | 61.0 ± 1.0 |" in markdown(r)
    assert "| *published* | | *81.5 (-0.5)* | *55.9 (+5.1)* |" in markdown(r)
    data = json.loads(json.dumps(to_json(r)))
    first = data["rows"][0]["metrics"]["bbox/AP50"]
    assert first["interval95"] == pytest.approx(stats.t.interval(0.95, 2, 81.0, 1 / math.sqrt(3)))
    assert first["verdict"] == "within noise of the paper" and first["versus_baseline"] is None
    assert first["mean"] == 81.0 and first["values"] == [80.0, 81.0, 82.0]
    assert math.isclose(first["minus_published"], -0.5) and data["source"] == "Paper, Table 2"
    assert data["rows"][1]["trials"] == 1 and data["rows"][1]["metrics"]["bbox/AP50"]["mean"] is None
    lines = list(csv.DictReader(to_csv(r).splitlines()))
    assert [line["n"] for line in lines] == ["3", "3", "1", "1"]
    assert lines[1]["verdict"] == "above by 5.1 (outside)" and lines[2]["verdict"] == "" == lines[2]["low95"]
    assert lines[0]["mean"] == "81.0" and lines[0]["source"] == "Paper, Table 2" and lines[2]["mean"] == ""


def test_rows_are_tested_against_the_baseline() -> None:
    a, b = [80.0, 80.4, 80.2], [81.0, 81.5, 81.1]
    r = column(row("Supervised", a), row("MoCo", b), row("One", [90.0]))
    assert [(x.name, m.label) for x, m, _ in comparisons(r)] == [("MoCo", "AP50"), ("MoCo", "AP")]
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert comparisons(r)[0][2].p == pytest.approx(expected.pvalue)
    table = text(whole(r))
    assert "81.2 ± 0.3 (+1.0)" in table and "minus the row 'Supervised'" in table
    assert f"MoCo, AP50: +1.0 [+0.5, +1.5], p = {expected.pvalue:.3f}, g = " in table and "different" in table


def test_a_failed_trial_is_shown_and_the_row_is_not_averaged() -> None:
    r = report(
        row("MoCo", [80.0, 81.0], wanted=3, failed={3: "the loss is nan"}, problems=("seed 3 failed: the loss is nan",))
    )
    assert r.rows[0].state == "2 of 3 trials, 1 failed"
    assert "MoCo: 2 of 3 trials, 1 failed, so not averaged (so far AP50 80.0, 81.0;" in " ".join(text(r).split())
    assert "seed 3 failed: the loss is nan." in text(r) and "80.5" not in text(r)
    assert to_json(r)["rows"][0]["failed"] == {"3": "the loss is nan"}


def test_coco_judges_single_runs_and_names_its_own_rule_only() -> None:
    """0.3 AP is for single runs: one trial has a verdict; AP50 has no rule."""
    r = column(row("MoCo", [58.7], published={"bbox/AP": 38.5, "bbox/AP50": 50.0, "segm/AP": 27.0}, protocol="coco"),
               metrics=("AP", "AP50", "segm/AP"))  # fmt: skip
    assert [(m.label, v.status) for _, m, v in verdicts(r)] == [("AP", "within"), ("mask AP", "above")]
    table = " ".join(text(whole(r)).split())
    assert "AP, mask AP by a gap of at most 0.3" in table and "Welch" not in table


@pytest.mark.parametrize("protocol", [None, "lvis_v9"])
def test_results_that_name_no_known_protocol_are_not_judged(protocol: str | None) -> None:
    """Those of an earlier version, and those of a later one: shown, without a verdict, and never by VOC's rule."""
    r = column(row("MoCo", [80.0, 81.0, 82.0], published=PUBLISHED, protocol=protocol))
    assert verdicts(r) == [] and "81.0 ± 1.0" in text(whole(r)) and "this project's rule" not in text(whole(r))


def test_a_metric_of_one_test_set_of_several_is_judged_by_that_set_s_protocol() -> None:
    trials = tuple(
        RunResult("train", "torchvision", seed, "d", metrics={"a/bbox/AP": 38.5, "b/bbox/AP": 80.0 + seed / 10},
                  extra={"a": {"protocol": "coco"}, "b": {"protocol": "voc07"}}) for seed in (1, 2)
    )  # fmt: skip
    published = {"a/bbox/AP": 38.4, "b/bbox/AP": 80.1}
    both = RowReport("MoCo", "moco", "random", (1, 2), trials, aggregate(trials), published)
    r = column(both, metrics=("a/bbox/AP", "b/bbox/AP"))
    assert [v.p is None for _, _, v in verdicts(r)] == [True, False]
    assert "AP on a by a gap of at most 0.3" in " ".join(text(whole(r)).split())


def test_a_metric_that_is_no_number_says_why() -> None:
    """NaN in all trials: no mean, and the sentence of the results."""
    why = "no object of the test set is small"
    trials = tuple(
        RunResult("train", "torchvision", seed, "d", metrics={"bbox/AP": 30.0 + seed, "bbox/APs": math.nan},
                  extra={"set": {"protocol": "coco", "undefined": {"bbox/APs": why}}}) for seed in (1, 2)
    )  # fmt: skip
    r = column(RowReport("MoCo", "moco", "random", (1, 2), trials, aggregate(trials)), metrics=("AP", "APs"))
    assert f"MoCo, APs: {why}" in text(whole(r)) and f"* MoCo, APs: {why}" in markdown(whole(r))
    assert to_json(whole(r))["rows"][0]["metrics"]["bbox/APs"]["undefined"] == why
    assert f"undefined: {why}" in summary.table(whole(r))
    assert r.rows[0].undefined("set/bbox/APs") == why and r.rows[0].undefined("bbox/AP") == ""


def test_green_is_large_and_more_than_chance() -> None:
    sure, chance = [81.0, 81.1, 81.2], [79.0, 81.0, 83.6]
    r = column(row("Supervised", [80.0, 80.1, 80.2]), row("sure", sure), row("chance", chance), row("one", [90.0]))
    assert [cell(r, x, "AP50").better for x in r.rows] == [False, True, False, False]
    assert (cell(r, r.rows[2], "AP50").gain or 0) > 0.5
    tex = latex.table(whole(r))
    assert r"\textcolor{better}{(+1.0)}" in tex and r"\textcolor{better}{(+1.1)}" not in tex and "(+1.1)" in tex
    page = summary.table(whole(r))
    assert page.count("gain better") == 2  # of AP50 and of AP
