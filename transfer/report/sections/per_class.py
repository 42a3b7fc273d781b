"""Shows classes: AP of every row as a table, and the difference that an initialisation makes class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transfer.evaluation.protocols import known_metric
from transfer.report.collected import ColumnReport, RowReport
from transfer.report.figures.classes import Cloud, Gap, gaps, scatter
from transfer.report.markup import Markup, css_colour, join, named, scroll, section, tag

SHOWN = 24  # classes of a figure; VOC's 20 fit, of COCO's 80 the largest gaps are taken

Trials = Sequence[Mapping[str, float | None]]
"""Of every trial: class -> AP in points, None where it is undefined."""


@dataclass(frozen=True)
class Classes:
    """Holds AP per class on one test set.

    Attributes:
        metric: key of the column's first metric that is known per class.
        rows: one entry per row of the column; None for a row that is not complete.
    """

    dataset: str
    metric: str
    names: tuple[str, ...]
    rows: tuple[Trials | None, ...]

    @property
    def label(self) -> str:
        """Returns the metric's name for people."""
        known = known_metric(self.metric)
        return self.metric if known is None else known.label

    def means(self, row: int) -> dict[str, float | None] | None:
        """Returns class -> mean over trials, or None where a trial lacks the number; None for an incomplete row."""
        trials = self.rows[row]
        if trials is None:
            return None
        values = {name: [t.get(name) for t in trials] for name in self.names}
        return {name: None if None in found else fmean(found) for name, found in values.items()}  # type: ignore[arg-type]


def read(column: ColumnReport) -> Iterator[Classes]:
    """Yields the test sets with numbers per class and several classes (for a single class the table says all)."""
    for dataset in dict.fromkeys(name for row in column.rows for r in row.results for name in _per_class(r.extra)):
        tables = [_per_class(r.extra).get(dataset, {}) for row in column.rows for r in row.results]
        available = {metric for table in tables for values in table.values() for metric in values}
        wanted = [m.key.removeprefix(f"{dataset}/") for m in column.metrics]
        metric = next((m for m in wanted if m in available), min(available, default=None))
        if metric is None:
            continue
        rows = tuple(_trials(row, dataset, metric) for row in column.rows)
        names = tuple(dict.fromkeys(name for trials in rows if trials for name in trials[0]))
        if len(names) > 1:
            yield Classes(dataset, metric, names, rows)


def _per_class(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: d["per_class"] for name, d in extra.items() if isinstance(d, Mapping) and d.get("per_class")}


def _trials(row: RowReport, dataset: str, metric: str) -> Trials | None:
    if row.aggregate is None or len(row.results) < len(row.seeds):
        return None
    tables = [_per_class(r.extra).get(dataset, {}) for r in row.results]
    return [{name: values.get(metric) for name, values in table.items()} for table in tables]


def differences(row: Trials, baseline: Trials) -> list[Gap]:
    """Returns per class the row's trials minus the baseline's mean, from the largest mean difference down.

    Classes whose AP is undefined in some trial of either are left out; equal differences keep the data set's order.
    """
    found = []
    for name in row[0]:
        ours, theirs = [t.get(name) for t in row], [t.get(name) for t in baseline]
        if None in ours or None in theirs:
            continue
        base = fmean(theirs)  # type: ignore[arg-type]
        trials = tuple(v - base for v in ours if v is not None)
        found.append(Gap(name, fmean(trials), trials))
    return sorted(found, key=lambda gap: -gap.mean)


def largest(found: Sequence[Gap], count: int) -> list[Gap]:
    """Returns the `count` classes whose mean differs most, to either side, in the order given."""
    kept = sorted(range(len(found)), key=lambda i: -abs(found[i].mean))[:count]
    return [found[i] for i in sorted(kept)]


def classes(column: ColumnReport) -> Markup | None:
    """Shows AP per class, averaged over the trials of every complete row."""
    tables = [_table(column, found) for found in read(column)]
    return section("classes", "Classes", *tables) if tables else None


def _table(column: ColumnReport, found: Classes) -> Markup:
    heads, means = [], {i: found.means(i) for i, row in enumerate(column.rows) if row.is_run}
    for i, values in means.items():
        row = column.rows[i]
        heads.append(
            tag("th", named(i, row.name), None if values is not None else tag("small", row.state), scope="col")
        )
    lines = []
    for name in found.names:
        cells = [_bar(i, (values or {}).get(name)) for i, values in means.items()]
        lines.append(tag("tr", tag("th", _words(name), scope="row"), *cells))
    head = tag("thead", tag("tr", tag("th", "Class", scope="col"), *heads))
    lead = f"{found.label} per class on {found.dataset}, mean over trials; bars run from 0 to 100."
    element = tag("table", head, tag("tbody", *lines), class_="classes", style=f"--rows: {len(means)}")
    frame: Markup = scroll(element, "AP per class")
    if len(lines) > SHOWN:
        frame = tag("details", tag("summary", f"All {len(lines)} classes"), frame)
    return join([tag("p", lead, class_="lead"), tag("div", frame, class_="card")])


def _bar(row: int, value: float | None) -> Markup:
    if value is None:
        return tag("td", "–")
    share = f"--share: {max(0.0, min(value, 100.0)):.1f}%; --colour: {css_colour(row)}"
    return tag("td", tag("div", tag("b", f"{value:.1f}"), tag("span", tag("i", style=share)), class_="bar"))


def against_baseline(column: ColumnReport) -> Markup | None:
    """Shows which classes gain and which lose: each complete row's AP per class minus the baseline's."""
    parts: list[Markup] = []
    for n, found in enumerate(read(column)):
        parts += _figures(column, found, n)
    return section("gaps", "Class by class", *parts) if parts else None


def _figures(column: ColumnReport, found: Classes, number: int) -> list[Markup]:
    base = column.rows.index(column.baseline)
    baseline = found.rows[base]
    others = [(i, t) for i, t in enumerate(found.rows) if t is not None and i != base]
    if baseline is None or not others:
        return []
    chosen, total = {}, 0
    for i, trials in others:
        every = differences(trials, baseline)
        if every:
            chosen[i], total = largest(every, SHOWN), len(every)
    scale = max((abs(v) for found in chosen.values() for gap in found for v in (gap.mean, *gap.trials)), default=0.0)
    cards = []
    for i, shown in chosen.items():
        name = column.rows[i].name
        said = ", ".join(f"{_words(g.name)} {g.mean:+.1f}" for g in shown)
        alt = f"{found.label} per class, {name} minus {column.baseline.name}: {said}."
        renamed = [Gap(_words(g.name), g.mean, g.trials) for g in shown]
        title = tag("h3", named(i, name), " against ", named(base, column.baseline.name), class_="pair")
        cards.append(tag("figure", title, gaps(renamed, (base, i), scale, alt, f"gap{number}-{i}"), class_="card"))
    if not cards:
        return []
    cards.append(_scatter(column, found, base, list(chosen), number))
    which = f" Of {total} classes the {SHOWN} with the largest differences." if total > SHOWN else ""
    dots = " Dots: single trials." if len(column.seeds) > 1 else ""
    lead = (
        f"{found.label} per class on {found.dataset} minus that of '{column.baseline.name}', in points, means over "
        f"trials, sorted.{which} A bar has the colour of the row that is better.{dots}"
    )
    return [tag("p", lead, class_="lead"), tag("div", *cards, class_="charts wide")]


def _scatter(column: ColumnReport, found: Classes, base: int, others: Sequence[int], number: int) -> Markup:
    """Shows whether the easy or the hard classes gain."""
    theirs = found.means(base) or {}
    clouds, said = [], []
    for i in others:
        ours = found.means(i) or {}
        both = {
            _words(name): (x, y) for name, y in ours.items() if y is not None and (x := theirs.get(name)) is not None
        }
        clouds.append(Cloud(i, both))
        above = sum(y > x for x, y in both.values())
        said.append(f"{column.rows[i].name} is above the baseline in {above} of {len(both)} classes")
    labels = f"{found.label} of {column.baseline.name}", f"{found.label} of the row"
    chart = scatter(clouds, labels, "; ".join(said) + ".", f"scatter{number}")
    legend = [tag("li", named(i, words)) for i, words in zip(others, said, strict=True)]
    caption = tag("figcaption", tag("ul", *legend, class_="scores"))
    return tag("figure", tag("h3", "Easy and hard classes"), chart, caption, class_="card")


def _words(name: str) -> str:
    return name.replace("_", " ")
