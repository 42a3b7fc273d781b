"""Both engines' trials of one experiment: a report and a table each, and the page that tells them apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.report.collect import collect
from transfer.report.engines import both, other
from transfer.report.report import write_report


class Another(trees.NoEngine):
    name = "detectron2"


def test_each_engine_keeps_its_report_and_the_page_to_open_compares_them(tmp_path: Path, generated: Path) -> None:
    first = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    second = replace(first, engine=Another())
    trees.fill(first)
    assert other(first) is None and other(second) == "torchvision"
    write_report(first)
    out = first.experiment.output
    alone = (out / "report-torchvision.html").read_bytes()
    assert (out / "report.html").read_bytes() == alone
    trees.fill(second, finished={"moco-v2": 1})
    column, row = second.experiment.columns[0], second.experiment.rows[0]
    for seed, ap in zip(column.seeds, (70.0, 70.4), strict=True):
        trees.trial(second, row, seed, 3, metrics={"bbox/AP50": ap})
    page = Page(write_report(second).read_text(encoding="utf-8"))
    assert (out / "report-torchvision.html").read_bytes() == alone
    assert [json.loads((out / f"table-{n}.json").read_text())["engine"] for n in ("torchvision", "detectron2")] == [
        "torchvision", "detectron2",
    ]  # fmt: skip
    assert [a["href"] for a in page.all("a")] == ["report-detectron2.html", "report-torchvision.html"]
    (cell,) = both(second, collect(second), "torchvision")  # the other row is not complete, AP is not there
    theirs = collect(first).columns[0].rows[0].values("bbox/AP50")
    assert cell.first.values == (70.0, 70.4) and cell.second.values == theirs
    p = stats.ttest_ind((70.0, 70.4), theirs, equal_var=False).pvalue
    assert (f"{p:.3f}" if p >= 0.001 else "< 0.001") in page.text and "different" in page.text
    assert f"−{sum(theirs) / 2 - 70.2:.1f}" in page.text


def test_one_trial_each_has_a_difference_and_no_test(tmp_path: Path, generated: Path) -> None:
    first = trees.plan(trees.experiment_file(tmp_path, generated, trials=1))
    second = replace(first, engine=Another())
    trees.fill(first)
    trees.fill(second)
    page = Page(write_report(first).read_text(encoding="utf-8"))
    assert "report-detectron2.html" not in [a["href"] for a in page.all("a")]
    assert "make it with make_report.py --engine detectron2" in page.text and "no spread to test" in page.text
    cells = list(both(first, collect(first), "detectron2"))
    assert len(cells) == 6 and all(cell.first.mean == pytest.approx(cell.second.mean) for cell in cells)
