"""Makes the page's head, its table, and the figures that show what the table's numbers are made of."""

from __future__ import annotations

from collections.abc import Mapping

from transfer.evaluation.metric import Metric
from transfer.report.collected import ColumnReport, ExperimentReport, RowReport
from transfer.report.figures.row_plots import Dots, dots, near_enough
from transfer.report.markup import Markup, join, named, scroll, section, tag
from transfer.report.tables import MINUS, Cell, captions, cell, comparisons, rules, signed, tested, theirs, verdicts
from transfer.trials.significance import Comparison


def header(report: ExperimentReport, contents: Mapping[str, str]) -> Markup:
    """Makes the title, a line about the page, and links to its sections (`contents` maps id to title)."""
    counts = [(c.prefix, c.runner, len(c.seeds)) for c in report.columns]
    how = " · ".join(f"{prefix}{runner} · {n} trial{'s' * (n != 1)} per row" for prefix, runner, n in counts)
    cells = [row for _, _, row in report.cells()]
    left, what = sum(row.aggregate is None for row in cells), "rows" if len(report.columns) == 1 else "cells"
    state = f"{len(cells) - left} of {len(cells)} {what} complete." if left else f"All {what} are complete."
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title in contents.items()]
    return join(
        [
            tag("p", f"Transfer report · {how}", class_="kicker"),
            tag("h1", report.title),
            tag("p", state, class_="lede"),
            tag("nav", tag("ul", *links), aria_label="Sections"),
        ]
    )


def problems(report: ExperimentReport) -> Markup | None:
    """Shows what a reader must know before reading any number."""
    lines = []
    for column in report.columns:
        short = [row for row in column.unfinished if len(row.results) < len(row.seeds)]
        lines += [f"{column.prefix}{row.name}: {row.state}, so not averaged" for row in short]
        lines += [f"{column.prefix}{row.name}: {problem}" for row in column.rows for problem in row.problems]
    return tag("div", tag("ul", *(tag("li", line) for line in lines)), class_="warning", role="note") if lines else None


def table(report: ExperimentReport) -> Markup:
    """Makes the table as in the paper: a row per initialisation, metrics across, published numbers in small print.

    ARIA roles repeat what the elements mean, because narrow screens lay the cells out as a grid.
    """
    heads = [
        tag("th", m.label, scope="col", class_=_place(k, "number"), role="columnheader")
        for c in report.columns
        for k, m in enumerate(c.metrics)
    ]
    grouped = len(report.columns) > 1
    first = tag("th", "Initialisation", scope="col", role="columnheader", rowspan=2 if grouped else None)
    lines = [tag("tr", first, *heads, role="row")]
    if grouped:
        groups = [
            tag("th", c.name, scope="colgroup", colspan=len(c.metrics), class_="group-head", role="columnheader")
            for c in report.columns
        ]
        lines = [tag("tr", first, *groups, role="row"), tag("tr", *heads, role="row")]
    body = []
    for i, row in enumerate(report.rows):
        beneath = [tag("small", words) for c in report.columns if (words := _beneath(c, c.rows[i]))]
        name = tag("th", named(i, row.name), *beneath, scope="row", role="rowheader")
        cells = [_cell(c, c.rows[i], k) for c in report.columns for k in range(len(c.metrics))]
        body.append(tag("tr", name, *cells, role="row"))
    lead = join([tag("p", line, class_="lead") for line in captions(report)])
    element = tag(
        "table", tag("thead", *lines, role="rowgroup"), tag("tbody", *body, role="rowgroup"),
        class_="summary", role="table",
    )  # fmt: skip
    judged = [_judgement(column) for column in report.columns]
    return section("results", "Results", lead, tag("div", scroll(element, "Results"), class_="card"), *judged)


def _place(metric: int, more: str) -> str:
    """Returns a cell's class; a column's first metric has a rule at its left if there are several columns."""
    return f"{more} first" if metric == 0 else more


def _beneath(column: ColumnReport, row: RowReport) -> str:
    if not row.state:
        return ""
    alone = len(column.run) <= 1 or row is not column.baseline
    return column.prefix + (row.state if alone else f"{row.state}; the baseline")


def _cell(column: ColumnReport, row: RowReport, k: int) -> Markup:
    metric = column.metrics[k]
    c = cell(column, row, metric)
    mean: object = None
    std = None
    if c.statistic is not None:
        mean = tag("span", f"{c.statistic.mean:.1f}", class_="mean")
        std = None if c.statistic.std is None else tag("span", f" ± {c.statistic.std:.1f}", class_="std")
        if c.gain is not None:
            better = "gain better" if c.better else "gain"
            std = join([std, tag("span", f" ({signed(c.gain, MINUS)})", class_=better)])
    elif row.is_run:
        values = row.values(metric.key)
        mean = tag("span", "–", class_="mean")
        if values:
            std = tag("small", "so far " + ", ".join(f"{v:.1f}" for v in values))
        elif why := row.undefined(metric.key):
            std = tag("small", f"undefined: {why}", class_="reason")
    label = f"{column.name} {metric.label}".strip()
    return tag("td", mean, std, *_small_print(c), class_=_place(k, "number"), role="cell", data_label=label)


def _small_print(c: Cell) -> list[Markup]:
    lines = []
    if c.interval is not None:
        lines.append(tag("small", "95% {:.1f} to {:.1f}".format(*c.interval).replace("-", MINUS)))
    if c.published is not None:
        lines.append(tag("small", f"published {theirs(c).replace('-', MINUS)}"))
    if c.verdict is not None:
        lines.append(tag("small", c.verdict.words, class_="outside" if c.verdict.outside else None))
    return lines


def _judgement(column: ColumnReport) -> Markup | None:
    judged = verdicts(column)
    if not judged:
        return None
    within = sum(v.status == "within" for _, _, v in judged)
    counts = f"{column.prefix}Within noise of the published number: {within} of {len(judged)}"
    return tag("p", f"{counts}, judged {rules(column)}.", class_="small after")


def versus(column: ColumnReport) -> Markup | None:
    """Compares every row with the baseline: difference, its interval, Welch's t-test, effect size."""
    tested = comparisons(column)
    if not tested:
        return None
    heads = ("Initialisation", "Metric", "Difference", "95% interval", "p (Welch)", "Hedges' g", "")
    numbers = range(2, 6)
    head = [tag("th", text, scope="col", class_="number" if i in numbers else None) for i, text in enumerate(heads)]
    body = []
    for row, m, c in tested:
        name = tag("th", named(column.rows.index(row), row.name), scope="row")
        body.append(tag("tr", name, tag("td", m.label), *compared(c)))
    lead = (
        f"Each row's mean minus that of '{column.baseline.name}'. Different: Welch's t-test at 5%, each comparison by "
        "itself. Hedges' g: the difference in standard deviations over trials."
    )
    element = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    card = tag("div", scroll(element, "Differences from the baseline"), class_="card")
    return section("versus", "Against the baseline", tag("p", lead, class_="lead"), card)


def compared(c: Comparison) -> list[Markup]:
    """Makes the cells of a test: difference, interval, p, effect, verdict."""
    return [*(tag("td", word, class_="number") for word in tested(c, MINUS)), tag("td", c.verdict, class_="whole")]


def trials(column: ColumnReport) -> Markup | None:
    """Draws every trial as a dot, in one figure per metric."""
    figures, says = [], ["Dot: one trial."]
    for n, m in enumerate(column.metrics):
        rows = row_dots(column, m)
        if any(r.values for r in rows):
            alt = f"{m.label} per trial. " + " ".join(map(_described, rows))
            figures.append(tag("figure", tag("h3", m.label), dots(rows, alt, f"dots{n}"), class_="card"))
            if len(near_enough(rows)) < len(rows):
                says.append("Triangle: far off the others' scale.")
    if not figures:
        return None
    says += ["Upright line: mean; band: ± one sample std; thin line: 95% interval."] * (len(column.seeds) > 1)
    says += ["Hollow diamond: published."] * column.has_published
    lead = tag("p", " ".join(dict.fromkeys([*says, "Scales differ between metrics."])), class_="lead")
    return section("trials", "Every trial", lead, tag("div", *figures, class_="charts"))


def row_dots(column: ColumnReport, metric: Metric) -> list[Dots]:
    """Returns the rows that have, or will have, something to show in a metric."""
    rows = enumerate(column.rows)
    return [_dots(column, i, row, metric) for i, row in rows if row.is_run or metric.key in row.published]


def _dots(column: ColumnReport, i: int, row: RowReport, metric: Metric) -> Dots:
    c = cell(column, row, metric)
    s = c.statistic
    mean, std = (None, None) if s is None else (s.mean, s.std)
    label = row.state.split(", ")[0] if s is None else str(s)
    published = c.published if isinstance(c.published, float) else None
    return Dots(row.name, i, row.values(metric.key), mean, std, published, label, c.interval)


def _described(row: Dots) -> str:
    values = ", ".join(f"{v:.1f}" for v in row.values) or "no trial"
    published = "" if row.published is None else f", published {row.published:.1f}"
    return f"{row.name}: {row.label} ({values}{published})."
