"""Two schedules side by side: gaps that close and open, ours and the paper's, and experiments that do not match."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from tests.transfer.report.test_tables import column, row
from transfer.report.schedules import Pair, changes, page, text, write_comparison

ENDS = ("1x", "2x")
SHORT = column(
    row("Random", [30.0, 32.0]),
    row("Supervised", [38.0, 38.4]),
    row("MoCo", [37.9, 38.1]),
    row("Half", [1.0], wanted=2),
)
LONG = column(
    row("Supervised", [40.0, 40.2]), row("MoCo", [40.8, 41.0]), row("Random", [36.0, 36.4]), row("Half", [1.0])
)


def test_gaps_close_open_and_change_sides() -> None:
    found = {c.row.name: c for c in changes(SHORT, LONG) if c.metric.label == "AP50"}
    assert list(found) == ["Random", "Supervised", "MoCo"]  # a row that is not finished has no number
    assert (found["Random"].left, found["Random"].right) == pytest.approx((31.0, 36.2))
    assert (found["Random"].left_gap, found["Random"].right_gap) == pytest.approx((-7.2, -3.9))
    assert found["Random"].words == "closes" and found["MoCo"].words == "changes sides"
    assert found["Supervised"].left_gap is None and found["Supervised"].words == ""
    back = {c.row.name: c.words for c in changes(LONG, SHORT)}
    assert back["Random"] == "opens"
    assert {c.words for c in changes(SHORT, SHORT)} == {"", "stays"}
    table = text(changes(SHORT, LONG), ENDS, "Supervised")
    assert "-7.2 -> -3.9: closes" in table and "AP50" in table and "gap to 'Supervised'" in table


def test_the_papers_numbers_of_table_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything ran: the published numbers, whose iterations tell the schedules apart."""
    files = [str(ROOT / "configs" / "experiments" / f"table5{x}.yaml") for x in "ab"]
    where = ["--engine", "torchvision", "--output", str(tmp_path / "s.html"), "--output-dirs", *[str(tmp_path)] * 2]
    assert tool("compare_schedules").main([*files, *where]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert "90,000 iterations  180,000 iterations" in out
    assert "random init. (published) 31.0 36.7 +5.7 -7.9 -> -3.9: closes".split() in lines
    assert "MoCo IG-1B (published) 38.9 41.1 +2.2 0.0 -> +0.5: opens".split() in lines
    shown = Page((tmp_path / "s.html").read_text(encoding="utf-8"))
    assert len([a for a in shown.all("svg") if a.get("aria-label")]) == 6 and "closes" in shown.text


def test_page_of_our_results(tmp_path: Path, generated: Path) -> None:
    plans = []
    for name in ("short", "long"):
        plans.append(trees.plan(trees.experiment_file(tmp_path / name, generated, trials=2)))
        trees.fill(plans[-1])
    said = write_comparison(*plans, tmp_path / "s.html")
    shown = Page((tmp_path / "s.html").read_text(encoding="utf-8"))
    assert "MoCo <v2> (published)" in said and "\nMoCo <v2>  " in said
    assert not shown.all("script") and not shown.all("link") and "ours" in shown.text
    ids = [a["id"] for _, a in shown.elements if "id" in a]
    assert len(set(ids)) == len(ids)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="baselines differ: 'Supervised' and 'Random'"):
        changes(SHORT, column(row("Random", [1.0])))
    unfinished = column(row("Random", [1.0], wanted=2))
    assert "nothing to compare yet" in text(changes(unfinished, unfinished), ENDS, "Random")
    assert "Nothing to compare yet." in page([Pair(unfinished, unfinished, ENDS)], ("a", "b"))


def test_numbers_that_mean_something_else_are_refused_or_marked(tmp_path: Path, generated: Path) -> None:
    plans = []
    for name in ("short", "long"):
        plans.append(trees.plan(trees.experiment_file(tmp_path / name, generated, trials=2)))
        trees.fill(plans[-1])
    for seed in plans[1].experiment.columns[0].seeds:
        trees.trial(plans[1], plans[1].experiment.rows[0], seed, 5, config_digest="of another file")
    mark = "B: supervised IN-1M: made with config digest of another"
    said = write_comparison(*plans, tmp_path / "s.html")
    assert mark in said and mark in Page((tmp_path / "s.html").read_text(encoding="utf-8")).text
    for seed in plans[1].experiment.columns[0].seeds:
        details = {"generated_test": {"protocol": "coco", "per_class": {}}}
        trees.trial(plans[1], plans[1].experiment.rows[0], seed, 5, extra=details)
    with pytest.raises(ConfigError, match="A is scored by the protocol voc07, B by coco"):
        write_comparison(*plans, tmp_path / "s.html")
    other = trees.plan(trees.experiment_file(tmp_path / "other", generated, rows=[{"name": "Other", "weights": None}]))
    with pytest.raises(ConfigError, match="share no row that is run: 'supervised IN-1M', .*; rows are matched by name"):
        write_comparison(plans[0], other, tmp_path / "s.html")
