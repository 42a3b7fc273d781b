"""Compares two schedules of one experiment, for example COCO 1x and 2x, as text and as a page of slope charts.

For each initialisation it shows the gap to the baseline under the short and under the long schedule. A gap that closes
means that the initialisation matters less when fine-tuning takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.config import ConfigError
from transfer.evaluation.metric import Metric
from transfer.report.collect import collect_column
from transfer.report.collected import ColumnReport, RowReport
from transfer.report.figures.row_plots import Slope, slopes
from transfer.report.markup import Markup, join, named, prefixed, scroll, section, tag
from transfer.report.page import page as framed
from transfer.report.pairs import Pair as Matched
from transfer.report.pairs import check, matched, problems
from transfer.report.tables import signed
from transfer.trials.plan import Plan
from transfer.trials.rows import Column


@dataclass(frozen=True)
class Change:
    """Holds one row's values of one metric under both schedules, in points (0 to 100).

    Attributes:
        row: the row under the left schedule.
        number: the row's position in the left experiment, which chooses its colour.
        published: True if the values are the paper's, False if they are this project's.
        left, right: the values under the two schedules.
        left_gap, right_gap: the values minus those of the baseline row; None for the baseline row itself, or where the
            baseline has no value.
    """

    row: RowReport
    number: int
    metric: Metric
    published: bool
    left: float
    right: float
    left_gap: float | None
    right_gap: float | None

    @property
    def words(self) -> str:
        """Says whether the gap to the baseline "opens", "closes", "changes sides" or "stays"; "" without a gap."""
        if self.left_gap is None or self.right_gap is None:
            return ""
        a, b = round(self.left_gap, 1), round(self.right_gap, 1)
        if a * b < 0:
            return "changes sides"
        return "stays" if abs(a) == abs(b) else "closes" if abs(b) < abs(a) else "opens"


@dataclass(frozen=True)
class Pair(Matched):
    """Holds one column of both experiments.

    Attributes:
        ends: names of the first and the second schedule, such as "90,000 iterations"; see `schedule`.
    """

    ends: tuple[str, str]


def changes(left: ColumnReport, right: ColumnReport) -> list[Change]:
    """Pairs every value that both schedules have.

    Returns:
        Changes in the order of metrics, then of rows; for each row this project's values before the paper's.

    Raises:
        ConfigError: the experiments differ in their engine or their baseline.
    """
    others = {row.name: row for row in right.rows}
    common = [(i, row, others[row.name]) for i, row in enumerate(left.rows) if row.name in others]
    if left.baseline.name != right.baseline.name:
        raise ConfigError(f"the baselines differ: '{left.baseline.name}' and '{right.baseline.name}'")
    if left.engine != right.engine:
        raise ConfigError(f"the engines differ: {left.engine} and {right.engine}")
    found = []
    for metric in (m for m in left.metrics if m.key in {other.key for other in right.metrics}):
        bases = {p: (_value(left.baseline, metric, p), _value(right.baseline, metric, p)) for p in (False, True)}
        for number, a, b in common:
            for published in (False, True):
                x, y = _value(a, metric, published), _value(b, metric, published)
                if x is None or y is None:
                    continue
                base_x, base_y = bases[published] if a is not left.baseline else (None, None)
                gaps = (None if base_x is None else x - base_x, None if base_y is None else y - base_y)
                found.append(Change(a, number, metric, published, x, y, *gaps))
    return found


def _value(row: RowReport, metric: Metric, published: bool) -> float | None:
    if published:
        number = row.published.get(metric.key)
        return number if isinstance(number, float) else None
    s = row.statistic(metric.key)
    return None if s is None else s.mean


def schedule(plan: Plan, column: Column) -> str:
    """Names a schedule by its number of iterations, or by the experiment's title if its rows differ in that number."""
    jobs = [job for row in plan.experiment.rows if (job := row.job(column)) is not None]
    lengths = {plan.config(job.config, job.opts).SOLVER.MAX_ITER for job in jobs}
    return f"{lengths.pop():,} iterations" if len(lengths) == 1 else plan.experiment.title


def pairs(left: Plan, right: Plan) -> list[Pair]:
    """Collects the columns that both experiments have.

    Raises:
        ConfigError: they have none in common, or their numbers mean different things; see `pairs.check`.
    """
    found = [
        Pair(collect_column(left, a), collect_column(right, b), (schedule(left, a), schedule(right, b)))
        for a, b in matched(left, right)
    ]
    for pair in found:
        check(pair)
    return found


def text(found: Sequence[Change], ends: tuple[str, str], baseline: str) -> str:
    """Writes the comparison for a terminal, with one block of lines per metric."""
    if not found:
        return "nothing to compare yet: no row is finished in both, and nothing is published"
    lines = []
    for metric in dict.fromkeys(c.metric for c in found):
        body = [[metric.label, ends[0], ends[1], "change", f"gap to '{baseline}'"]]
        for c in (c for c in found if c.metric == metric):
            name = f"{c.row.name} (published)" if c.published else c.row.name
            body.append([name, f"{c.left:.1f}", f"{c.right:.1f}", signed(c.right - c.left), _gaps(c)])
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        lines += ["  ".join(word.ljust(w) for word, w in zip(row, widths, strict=True)).rstrip() for row in body] + [""]
    return "\n".join(lines[:-1])


def _gaps(c: Change) -> str:
    if c.left_gap is None or c.right_gap is None:
        return ""
    return f"{signed(c.left_gap)} -> {signed(c.right_gap)}: {c.words}"


def page(found: Sequence[Pair], titles: tuple[str, str]) -> str:
    """Builds a self-contained HTML page: for each pair of columns one slope chart per metric, and a table below."""
    main = []
    for n, pair in enumerate(found):
        sections = _sections(pair)
        main += [prefixed(section, f"c{n}-") if len(found) > 1 else section for section in sections]
    if said := _problems(found, titles):
        main.insert(0, tag("div", tag("ul", *(tag("li", words) for words in said)), class_="warning", role="note"))
    sources = "; ".join(dict.fromkeys(c.source for pair in found for c in (pair.first, pair.second) if c.source))
    header = [
        tag("p", f"Two schedules · {found[0].first.runner}", class_="kicker"),
        tag("h1", f"{titles[0]} against {titles[1]}"),
        tag("p", f"Published: {sources}.", class_="lede") if sources else None,
    ]
    return framed(f"{titles[0]} against {titles[1]}", join(header), join(main, between="\n"))


def _problems(found: Sequence[Pair], titles: tuple[str, str]) -> list[str]:
    """Returns why numbers cannot be trusted, after a line that says which experiment is which."""
    lines = problems(found)
    return [f"A: {titles[0]}; B: {titles[1]}", *lines] if lines else []


def _sections(pair: Pair) -> list[Markup]:
    left, ends, found = pair.first, pair.ends, changes(pair.first, pair.second)
    if not found:
        return [tag("p", f"{left.prefix}Nothing to compare yet.", class_="lede")]
    figures = []
    for n, metric in enumerate(dict.fromkeys(c.metric for c in found)):
        chosen = [c for c in found if c.metric == metric]
        said = (f"{c.row.name}{' (published)' * c.published} {c.left:.1f} to {c.right:.1f}" for c in chosen)
        lines = [Slope(c.number, c.left, c.right, c.published) for c in chosen]
        chart = slopes(lines, ends, f"{metric.label}: {'; '.join(said)}.", f"slope{n}")
        figures.append(tag("figure", tag("h3", metric.label), chart, class_="card"))
    legend = [tag("li", named(i, row.name)) for i, row in enumerate(left.rows) if any(c.number == i for c in found)]
    lead = f"Solid: ours. Dashed: published. The gap is to '{left.baseline.name}'."
    charts = section(
        "slopes", f"{left.prefix}Slopes", tag("p", lead, class_="lead"), tag("ul", *legend, class_="legend"),
        tag("div", *figures, class_="charts"),
    )  # fmt: skip
    return [charts, _table(found, ends)]


def _table(found: Sequence[Change], ends: tuple[str, str]) -> Markup:
    heads = ("Initialisation", "", "Metric", *ends, "Change", "Gap to the baseline")
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    body = []
    for c in found:
        words = (f"{c.left:.1f}", f"{c.right:.1f}", signed(c.right - c.left), _gaps(c))
        cells = [tag("td", word, class_="whole") for word in words]
        origin = tag("td", "published" if c.published else "ours")
        name = tag("th", named(c.number, c.row.name), scope="row")
        body.append(tag("tr", name, origin, tag("td", c.metric.label), *cells))
    element = scroll(tag("table", head, tag("tbody", *body)), "Numbers")
    return section("numbers", "Numbers", tag("div", element, class_="card"))


def write_comparison(left: Plan, right: Plan, path: Path) -> str:
    """Writes the page to `path` and returns the comparison as text.

    Raises:
        ConfigError: the experiments cannot be compared; see `pairs` and `changes`.
    """
    found, titles = pairs(left, right), (left.experiment.title, right.experiment.title)
    blocks = [(p.first.name, text(changes(p.first, p.second), p.ends, p.first.baseline.name)) for p in found]
    with atomic_write(path) as f:
        f.write(page(found, titles).encode("utf-8"))
    said = ["\n".join(lines)] if (lines := _problems(found, titles)) else []
    return "\n\n".join([*(f"{name}\n{block}" if name else block for name, block in blocks), *said])
