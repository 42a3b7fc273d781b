"""Differences per class: numbers against a naive loop, the largest ones, and the section on the page."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.transfer.report import test_tables, trees
from tests.transfer.report.test_report import Page
from transfer.data import catalog
from transfer.evaluation.precision_recall import PrecisionRecall
from transfer.report.collect import collect
from transfer.report.evaluated import Evaluated, Found
from transfer.report.figures.classes import Gap
from transfer.report.markup import Markup
from transfer.report.sections.detections import precision
from transfer.report.sections.per_class import against_baseline, classes, differences, largest, read

ROWS = [{"name": "only", "weights": None}]


def test_differences_are_those_of_a_naive_loop() -> None:
    rng = random.Random(0)
    names = [f"c{i}" for i in range(80)]
    row = [{n: rng.uniform(0, 100) for n in names} for _ in range(3)]
    baseline = [{n: rng.uniform(0, 100) for n in names} for _ in range(2)]
    row[1]["c7"] = None
    del baseline[0]["c9"]
    found = differences(row, baseline)
    assert {g.name for g in found} == set(names) - {"c7", "c9"}
    for gap in found:
        base = (baseline[0][gap.name] + baseline[1][gap.name]) / 2
        ours = [t[gap.name] for t in row]
        assert abs(gap.mean - (sum(ours) / 3 - base)) < 1e-9
        assert all(abs(a - (b - base)) < 1e-9 for a, b in zip(gap.trials, ours, strict=True))
    assert all(a.mean >= b.mean for a, b in zip(found, found[1:], strict=False))
    kept = largest(found, 24)
    assert [g for g in found if g in kept] == kept and len(kept) == 24
    assert min(abs(g.mean) for g in kept) >= max(abs(g.mean) for g in found if g not in kept)


def test_largest_of_few_is_all() -> None:
    found = [Gap("a", 1.0, (1.0,)), Gap("b", -2.0, (-2.0,))]
    assert largest(found, 5) == found and largest(found, 1) == found[1:] and largest([], 5) == []


def test_the_figure_says_its_numbers(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan)
    report = collect(plan).columns[0]
    (found,) = read(report)
    assert found.rows[0] is not None and found.rows[1] is not None
    section = against_baseline(report)
    assert section is not None
    page = Page(section)
    chart, scatter = page.all("svg")
    above = sum(gap.mean > 0 for gap in differences(found.rows[1], found.rows[0]))
    assert scatter["aria-label"] == f"MoCo <v2> is above the baseline in {above} of 8 classes."
    for gap in differences(found.rows[1], found.rows[0]):
        assert f"{gap.name.replace('_', ' ')} {gap.mean:+.1f}" in (chart["aria-label"] or "")
        assert f"{gap.mean:+.1f}".replace("-", "−") in page.text
    assert "MoCo <v2>" in page.text and "Dots: single trials." in page.text


def test_eighty_classes_show_the_largest_gaps_and_say_so(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=1))
    for k, row in enumerate(plan.experiment.rows):
        per_class = {f"class_{i}": {"bbox/AP": 50.0 + k * (i - 40)} for i in range(80)}
        extra = {"generated_test": {"per_class": per_class, "protocol": "coco"}}
        trees.trial(plan, row, 1, 3, extra=extra)
    section = against_baseline(collect(plan).columns[0])
    assert section is not None
    page = Page(section)
    assert "Of 80 classes the 24 with the largest differences." in page.text
    assert "class 79" in page.text and "class 0" in page.text and "class 41" not in page.text


def test_a_baseline_that_is_not_complete_has_no_differences(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan, finished={"supervised-in-1m": 1})
    report = collect(plan).columns[0]
    assert against_baseline(report) is None and classes(report) is not None


def test_masks_per_class_are_those_of_masks(tmp_path: Path, generated: Path) -> None:
    """The first metric of the table that is known per class, by its key; short names of earlier results still show."""
    for key, label, value in (("segm/AP", "mask AP", "22.0"), ("bbox/AP", "AP", "11.0")):
        plan = trees.plan(trees.experiment_file(tmp_path / label, generated, trials=1, metrics=[key], rows=ROWS))
        extra = {
            "generated_test": {"per_class": {c: {"bbox/AP": 11.0, "segm/AP": 22.0} for c in "cd"}, "protocol": "coco"}
        }
        trees.trial(plan, plan.experiment.rows[0], 1, 3, extra=extra)
        text = Page(classes(collect(plan).columns[0]) or Markup("")).text
        assert f"{label} per class on generated_test" in text and value in text
    old = {"generated_test": {"per_class": {c: {"AP": 11.0, "mask AP": 22.0} for c in "cd"}, "metric": "COCO"}}
    trees.trial(plan, plan.experiment.rows[0], 1, 3, extra=old)
    assert "AP per class on generated_test" in Page(classes(collect(plan).columns[0]) or Markup("")).text


def test_one_class_has_no_section_of_its_own(tmp_path: Path, generated: Path) -> None:
    """What it would say the table says."""
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    for row in plan.experiment.rows:
        for seed in (1, 2):
            extra = {"generated_test": {"per_class": {"cell": {"bbox/AP50": 50.0}}, "protocol": "voc07"}}
            trees.trial(plan, row, seed, 3, extra=extra)
    report = collect(plan).columns[0]
    assert list(read(report)) == [] and classes(report) is None and against_baseline(report) is None


def test_precision_of_one_class_is_one_figure_with_its_name(generated: Path) -> None:
    (spec,) = catalog.resolve(["generated_test"], [generated / "voc.yaml"])
    dataset = replace(catalog.open_dataset(spec), classes=("red_cell",))
    curve = np.array([0.5, 1.0]), np.array([1.0, 0.5])
    curves = PrecisionRecall("AP50", 75.0, {"red_cell": 75.0}, {"red_cell": curve})
    section = precision(
        test_tables.column(test_tables.row("MoCo", [75.0])),
        [Evaluated(dataset, (Found("MoCo", 0, 1, {}, curves, np.ones(1), 1),))],
    )
    page = Page(section or Markup(""))
    assert len(page.all("svg")) == 1 and "red cell" in page.text
    assert "Each class" not in page.text and "Mean over classes" not in page.text
