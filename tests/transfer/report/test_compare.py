"""Two experiments side by side: numbers against scipy, what is left out, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from pretrain.runtime.commands import status
from pretrain.runtime.config import ConfigError
from tests.tools.test_errors import tool
from tests.transfer.report import trees
from tests.transfer.report.test_engines import Another
from tests.transfer.report.test_report import Page
from transfer.report.compare import compare, markdown, text, write_comparison
from transfer.trials.plan import Plan

SIMCLR = {"name": "SimCLR", "weights": None}


def _experiment(folder: Path, data: Path, trials: int = 2, **changes: object) -> Plan:
    plan = trees.plan(trees.experiment_file(folder, data, trials, title=f"Experiment <{folder.name}>", **changes))
    trees.fill(plan)
    return plan


def _rewrite(plan: Plan, **changes: object) -> None:
    """Replaces fields of every trial's result."""
    for file in (plan.experiment.output / "rows").rglob("result.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_numbers_are_those_of_scipy_in_text_markdown_and_page(tmp_path: Path, generated: Path) -> None:
    a, b = _experiment(tmp_path / "a", generated, 3), _experiment(tmp_path / "b", generated, 2)
    for seed, ap in ((1, 70.0), (2, 70.8)):
        trees.trial(b, b.experiment.rows[1], seed, 3, metrics={"bbox/AP50": ap, "bbox/AP": 1.0, "bbox/AP75": 2.0})
    found = compare(a, b)
    (pair,) = found.pairs
    assert [(c.name, c.metric.label) for c in pair.cells()] == [
        (name, label) for name in ("supervised IN-1M", "MoCo <v2>") for label in ("AP50", "AP", "AP75")
    ]
    ours = pair.first.rows[1].values("bbox/AP50")
    test = stats.ttest_ind(ours, (70.0, 70.8), equal_var=False)
    bounds, p = test.confidence_interval(0.95), test.pvalue
    words = [
        f"{sum(ours) / 3:.1f} ± {stats.tstd(ours):.1f}", "3", "70.4 ± 0.6", "2", f"{sum(ours) / 3 - 70.4:+.1f}",
        f"{bounds.low:+.1f} to {bounds.high:+.1f}", f"{p:.3f}" if p >= 0.001 else "< 0.001", "different",
    ]  # fmt: skip
    said = write_comparison(a, b, tmp_path / "c.html")
    (line,) = (line for line in said.splitlines() if line.startswith("MoCo <v2>  ") and " AP50 " in line)
    assert line.split() == " ".join(["MoCo <v2> AP50", *words]).split()
    table = (tmp_path / "c.md").read_text(encoding="utf-8")
    assert "| MoCo \\<v2\\> | AP50 | " + " | ".join(w.replace("<", "\\<") for w in words) + " |" in table
    page = Page((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "Experiment <a> against Experiment <b>" in page.text
    assert all(word.replace("-", "−") in page.text for word in words) and "n = 3 70.4 ± 0.6 n = 2" in page.text
    assert not page.all("script") and not page.all("link") and not page.all("img")
    assert len([chart for chart in page.all("svg") if chart.get("aria-label")]) == 3


def test_what_only_one_side_has_and_what_is_not_complete_is_said(tmp_path: Path, generated: Path) -> None:
    a = _experiment(tmp_path / "a", generated, metrics=["AP50", "AP"])
    b = trees.plan(trees.experiment_file(tmp_path / "b", generated, 2, rows=[trees.SUPERVISED, trees.MOCO, SIMCLR]))
    trees.fill(b, finished={"moco-v2": 1})
    found = compare(a, b)
    assert [c.name for c in found.pairs[0].cells()] == ["supervised IN-1M"] * 2
    for words in ("Only in B: row 'SimCLR'.", "Only in B: metric 'AP75'.",
                  "MoCo <v2>: B has 1 of 2 trials, 1 more started, so it is left out."):  # fmt: skip
        assert words in text(found) and words in found.remarks
    trees.fill(b, finished={})
    none = trees.plan(trees.experiment_file(tmp_path / "c", generated, 2))
    assert "Nothing to compare yet" in text(compare(a, none)) and "Nothing to compare yet" in markdown(compare(a, none))


def test_two_engines_of_one_experiment(tmp_path: Path, generated: Path) -> None:
    first = _experiment(tmp_path / "a", generated, 1)
    second = replace(first, engine=Another())
    with pytest.raises(ConfigError, match="both sides are the same results, .* of torchvision; give a second"):
        compare(first, first)
    trees.fill(second)
    found = compare(first, second)
    assert len(found.pairs[0].cells()) == 6 and all(
        c.difference == 0 and c.test is None for c in found.pairs[0].cells()
    )
    assert "A: Experiment <a>, torchvision engine, 1 trial per row" in text(found)
    assert "B: Experiment <a>, detectron2 engine, 1 trial per row" in text(found) and "not tested: one trial" in text(
        found
    )


@pytest.mark.parametrize(
    ("extra", "inputs", "words"),
    [
        ({"generated_test": {"protocol": "coco"}}, {}, "A is scored by the protocol voc07, B by coco"),
        ({"generated_test": {"per_class": {}}}, {}, "the results of B do not name the protocol"),
        ({"voc_2007_test": {"protocol": "voc07"}}, {}, "of the test set 'generated_test', B of 'voc_2007_test'"),
        ({"generated_test": {"protocol": "voc07"}}, {"data set generated_test": "f00d"}, r"digests beef and f00d"),
    ],
)
def test_numbers_that_mean_different_things_are_refused(
    tmp_path: Path, generated: Path, extra: dict[str, object], inputs: dict[str, str], words: str
) -> None:
    a, b = _experiment(tmp_path / "a", generated), _experiment(tmp_path / "b", generated)
    if inputs:
        _rewrite(a, inputs={"data set generated_test": "beef"})
    _rewrite(b, extra=extra, inputs=inputs)
    with pytest.raises(ConfigError, match=words):
        compare(a, b)


def test_one_test_set_under_two_names_is_compared(tmp_path: Path, generated: Path) -> None:
    """What it holds decides, not what it is called."""
    a, b = _experiment(tmp_path / "a", generated), _experiment(tmp_path / "b", generated)
    _rewrite(a, inputs={"data set generated_test": "beef"})
    _rewrite(b, inputs={"data set other": "beef"}, extra={"other": {"protocol": "voc07"}})
    assert len(compare(a, b).pairs[0].cells()) == 6


def test_nothing_in_common_is_refused(tmp_path: Path, generated: Path) -> None:
    a = _experiment(tmp_path / "a", generated, metrics=["AP50"])
    with pytest.raises(ConfigError, match="share no metric: bbox/AP50 and bbox/AP75; name the same ones"):
        compare(a, _experiment(tmp_path / "b", generated, metrics=["AP75"]))
    with pytest.raises(ConfigError, match="share no row that is run: 'supervised IN-1M', 'MoCo <v2>' and 'SimCLR'"):
        compare(a, _experiment(tmp_path / "c", generated, rows=[SIMCLR]))


def test_tool(tmp_path: Path, generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(_experiment(tmp_path / name, generated).experiment.path) for name in "ab"]
    main, engines = tool("compare").main, ["--engines", "torchvision", "torchvision"]
    assert main([*files, *engines]) == 0
    out = tmp_path / "a" / "out"
    assert f"page: {out / 'compare-table.html'}" in capsys.readouterr().out and (out / "compare-table.md").is_file()
    for words, problem in (
        ([*files, "--output", "x.txt"], "'x.txt'; give a name that ends in .html"),
        ([*files, "--output-dirs", str(out), str(tmp_path / "gone")], "gone' does not exist; run tools/reproduce.py"),
        ([files[0]], "both sides are the same results"),
        ([*files, "--trials", "0"], "trials is 0"),
    ):
        assert status(main, [*words, *engines]) == 2
        assert problem in capsys.readouterr().err
