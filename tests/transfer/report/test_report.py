"""The page: whole, self-contained, readable without sight, and honest about what is missing."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.transfer.report import trees
from transfer.report.collect import collect
from transfer.report.figures.gallery import choose
from transfer.report.figures.row_plots import Dots, _limits, near_enough, points
from transfer.report.markup import Markup, tag
from transfer.report.report import REPORT, write_report
from transfer.report.tables import cell, verdicts
from transfer.trials.plan import Plan
from transfer.trials.significance import interval

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting while it reads; keeps elements, ids and visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Plan:
    plan = trees.plan(trees.experiment_file(tmp_path_factory.mktemp("full"), generated, trials=3))
    trees.fill(plan)
    return plan


@pytest.fixture(scope="module")
def page(plan: Plan) -> Page:
    return Page(write_report(plan).read_text(encoding="utf-8"))


def test_every_row_and_number_is_there(plan: Plan, page: Page) -> None:
    report = collect(plan)
    column = report.columns[0]
    for row in report.rows:
        assert row.name in page.text
        for metric in column.metrics:
            statistic = row.statistic(metric.key)
            assert statistic is not None and statistic.std is not None
            assert f"{statistic.mean:.1f} ± {statistic.std:.1f}" in page.text
            low, high = interval(statistic) or (0, 0)
            assert f"95% {low:.1f} to {high:.1f}" in page.text
    for number in ("published 81.3", "published 55.9", "published 62.6"):
        assert number in page.text
    assert report.title in page.text and column.source in page.text and report.command in page.text
    assert "All rows are complete." in page.text and "this project's rule" in page.text
    assert "deadbeefdead" in page.text and "Imaginary GPU" in page.text and "every trial" in page.text


def test_gains_are_bracketed_and_green_where_they_are_large_and_more_than_chance(plan: Plan, page: Page) -> None:
    report = collect(plan).columns[0]
    gains = [cell(report, report.rows[1], m).gain for m in report.metrics]
    found = [a["class"] for a in page.all("span") if "gain" in (a.get("class") or "")]
    tested = [cell(report, report.rows[1], m).versus for m in report.metrics]
    green = [round(g or 0, 1) >= 0.5 and c.p < 0.05 for g, c in zip(gains, tested, strict=True)]
    assert found == ["gain better" if is_green else "gain" for is_green in green] and set(green) == {True, False}
    assert "Against the baseline" in page.text and "different" in page.text
    words = {v.words for _, _, v in verdicts(report)}
    assert len(words) > 1 and all(w in page.text for w in words)


def test_nothing_is_fetched(page: Page) -> None:
    for name, attributes in page.elements:
        assert name not in ("script", "link", "iframe", "img"), name
        for key in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/")), (name, value)
        assert "http" not in " ".join(v or "" for k, v in attributes.items() if k != "aria-label")
    assert "@import" not in "".join(page.words)


def test_style_fetches_nothing(plan: Plan) -> None:
    style = re.findall(r"<style>.*?</style>", write_report(plan).read_text(encoding="utf-8"), re.DOTALL)
    assert len(style) == 1 and "url(" not in style[0] and "@import" not in style[0]


def test_every_figure_has_words(page: Page) -> None:
    drawn = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert all(a.get("role") == "img" and a.get("aria-label") for a in drawn)
    pictures = [a for a in drawn if a.get("class") == "picture"]
    assert len(pictures) >= 4 * 2 and all("annotated" in (a["aria-label"] or "") for a in pictures)
    assert len([a for a in drawn if a.get("class") == "chart"]) == 3 + 3 + 2 + 1 + 8


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        for value in (attributes.get("href") or "", attributes.get("clip-path") or ""):
            if found := re.match(r"(?:url\()?#([^)]+)", value):
                assert found[1] in ids


def test_colours_are_variables_and_only_as_many_detections_as_objects_are_shown(plan: Plan, page: Page) -> None:
    text = (plan.experiment.output / REPORT).read_text(encoding="utf-8")
    assert "#0a0a0" not in text and "#01010" not in text and "var(--row-1)" in text
    labels = [float(w.rsplit(" ", 1)[1]) for w in page.words if re.fullmatch(r"(?:✓ )?[a-z]+_[a-z]+ [01]\.\d\d", w)]
    assert labels and min(labels) >= 0.5


def test_table_files_beside_it(plan: Plan, page: Page) -> None:
    names = {path.name for path in plan.experiment.output.iterdir()}
    assert {"report.html", "report-torchvision.html"} | {
        f"table-torchvision.{e}" for e in ("md", "csv", "json", "tex")
    } <= names
    assert not [name for name in names if name.endswith(".tmp")]


def test_same_results_give_the_same_page(plan: Plan, page: Page) -> None:
    before = (plan.experiment.output / REPORT).read_bytes()
    assert write_report(plan).read_bytes() == before


def test_unfinished_rows_are_said(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=3))
    trees.fill(plan, finished={"moco-v2": 1})
    page = Page(write_report(plan).read_text(encoding="utf-8"))
    assert "1 of 2 rows complete." in page.text and "1 of 3 trials, 1 more started, so not averaged" in page.text
    assert "so far" in page.text


def test_one_trial_and_nothing_published(tmp_path: Path, generated: Path) -> None:
    rows = [{"name": "only", "weights": None}]
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=1, rows=rows, pretrain={}))
    trees.fill(plan)
    text = Page(write_report(plan).read_text(encoding="utf-8")).text
    assert "±" not in text and "published" not in text.lower() and "no std" in text and "baseline" not in text


def test_before_anything_ran(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated))
    page = Page(write_report(plan).read_text(encoding="utf-8"))
    assert "0 of 2 rows complete." in page.text and page.all("h2") and "Run it again" in page.text


def test_a_data_set_that_is_gone_keeps_the_rest(tmp_path: Path, generated: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(generated, data)
    plan = trees.plan(trees.experiment_file(tmp_path, data, trials=2))
    trees.fill(plan)
    shutil.rmtree(data / "scenes")
    assert "Not shown:" in Page(write_report(plan).read_text(encoding="utf-8")).text


def test_tag_escapes_what_is_not_markup() -> None:
    assert tag("p", "<b>", Markup("<i></i>"), None, title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i></i></p>'
    assert tag("a", aria_label="x", hidden=True, open=False, class_="c") == '<a aria-label="x" hidden class="c"></a>'


def test_points_are_means_of_logged_values() -> None:
    curve = [{"iteration": i, "loss": float(i)} for i in range(10)] + [
        {"iteration": 10, "loss": None},
        {"iteration": 11},
    ]
    assert points(curve, "loss", at_most=5) == ([(1.5 + 2 * i, 0.5 + 2 * i) for i in range(5)], 2)
    assert points(curve, "accuracy") == ([], 1)


def test_rows_far_from_the_others_leave_the_scale() -> None:
    def dots(*values: float) -> Dots:
        return Dots(str(values), 0, values, None, None, None, "")

    random, a, b = dots(60.0, 60.2), dots(81.0, 81.4), dots(82.0, 82.5)
    assert near_enough([random, a, b]) == [a, b]
    assert near_enough([random, a]) == [random, a]  # two rows, nothing to leave out
    assert near_enough([dots()]) == [dots()]


def test_an_interval_of_two_trials_does_not_stretch_the_axis() -> None:
    """It is drawn as far as the axis goes: as much again as the values need to either side, within 0 and 100."""
    assert _limits([], []) == (0.0, 100.0)
    low, high = _limits([57.0, 59.0], [-40.0, 156.0])
    assert 53.0 < low < 55.0 and 61.0 < high < 63.0
    assert _limits([57.0, 59.0], [57.5, 58.5]) == _limits([57.0, 59.0])
    low, high = _limits([97.0, 99.5], [60.0, 140.0])
    assert high < 101 and low > 90
    low, high = _limits([0.5, 1.0], [-9.0, 9.0])
    assert -0.2 < low <= 0 and high < 4


def test_images_are_chosen_evenly_among_those_with_objects() -> None:
    records = [{"image_id": i, "annotations": [1] * (i % 2)} for i in range(20)]
    assert [r["image_id"] for r in choose(records, 4)] == [1, 7, 13, 19]
    assert [r["image_id"] for r in choose(records[:4], 4)] == [1, 3] and choose([], 4) == []
