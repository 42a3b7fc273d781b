"""Makes the experiment's table: its cells, and the table for the terminal. Published numbers stay apart from ours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.evaluation.metric import Metric, Rule
from transfer.report import judgement
from transfer.report.collected import ColumnReport, ExperimentReport, RowReport
from transfer.trials.aggregate import Statistic
from transfer.trials.rows import Published
from transfer.trials.significance import Comparison, Verdict, interval, judge, welch

MINUS = "\N{MINUS SIGN}"
GREEN = 0.5  # points over the baseline from which the papers print a gain in green


@dataclass(frozen=True)
class Cell:
    """Holds one row in one metric, in points. Unknown values are None.

    Attributes:
        statistic: our number; None unless all trials are finished.
        published: the number in the experiment file; "fail" where the authors' training failed.
        gap: our number minus the published one.
        gain: our number minus the baseline row's (None in that row).
        verdict: whether `gap` is noise; None where no rule covers the metric.
        interval: 95% interval of the mean; None for one trial.
        versus: the test behind `gain`; None unless both rows have two trials or more.
        rule: the rule of the verdict.
    """

    statistic: Statistic | None
    published: Published | None
    gap: float | None
    gain: float | None
    verdict: Verdict | None
    interval: tuple[float, float] | None = None
    versus: Comparison | None = None
    rule: Rule | None = None

    @property
    def better(self) -> bool:
        """Returns whether the gain is one that papers print in green, and more than chance."""
        different = self.versus is not None and self.versus.verdict == "different"
        return different and self.gain is not None and round(self.gain, 1) >= GREEN


def cell(column: ColumnReport, row: RowReport, metric: Metric) -> Cell:
    ours, published = row.statistic(metric.key), row.published.get(metric.key)
    base = column.baseline.statistic(metric.key) if row is not column.baseline else None
    number = published if isinstance(published, float) else None
    scored = row.scored(metric.key)
    rule = None if scored is None else scored.rule
    judged = ours is not None and number is not None and rule is not None
    return Cell(
        statistic=ours,
        published=published,
        gap=ours.mean - number if ours is not None and number is not None else None,
        gain=ours.mean - base.mean if ours is not None and base is not None else None,
        verdict=judge(ours, number, rule) if judged else None,  # type: ignore[arg-type]
        interval=None if ours is None else interval(ours),
        versus=welch(ours, base) if ours is not None and base is not None else None,
        rule=rule,
    )


def row_cells(column: ColumnReport, row: RowReport) -> list[Cell]:
    return [cell(column, row, m) for m in column.metrics]


def verdicts(column: ColumnReport) -> list[tuple[RowReport, Metric, Verdict]]:
    """Returns (row, metric, verdict) of every number that can be compared with a published one."""
    found = [(row, m, cell(column, row, m).verdict) for row in column.rows for m in column.metrics]
    return [(row, m, verdict) for row, m, verdict in found if verdict is not None and verdict.status != "open"]


def rules(column: ColumnReport) -> str:
    """Says by which rules the column's verdicts were made, each with its metrics."""
    used: dict[Rule, list[str]] = {}
    for row, m, _ in verdicts(column):
        if (rule := cell(column, row, m).rule) is not None and m.label not in used.setdefault(rule, []):
            used[rule].append(m.label)
    return "by this project's rule: " + "; ".join(f"{', '.join(ms)} by {rule.words}" for rule, ms in used.items())


def comparisons(column: ColumnReport) -> list[tuple[RowReport, Metric, Comparison]]:
    """Returns (row, metric, test) of every mean that can be compared with the baseline row's."""
    found = [(row, m, cell(column, row, m).versus) for row in column.rows for m in column.metrics]
    return [(row, m, versus) for row, m, versus in found if versus is not None]


def signed(x: float, minus: str = "-") -> str:
    """Writes a number with its sign and one decimal, and never as -0.0."""
    text = f"{x:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", minus)


def tested(c: Comparison, minus: str = "-") -> tuple[str, str, str, str]:
    """Writes a test in words: difference, its interval, p, effect."""
    p = "–" if c.p is None else "< 0.001" if c.p < 0.001 else f"{c.p:.3f}"
    bounds = f"{signed(c.low, minus)} to {signed(c.high, minus)}"
    effect = "–" if c.effect is None else f"{round(c.effect, 1) + 0.0:.1f}".replace("-", minus)
    return signed(c.difference, minus), bounds, p, effect


def text(report: ExperimentReport) -> str:
    """Writes each row's name, trials and mean ± std, and beneath it the published number with ours minus it.

    With one column, verdicts have a line of their own; with several, those outside are listed beneath the table.
    """
    alone = len(report.columns) == 1
    body = [["", *(word for c in report.columns for word in ("n", *(m.label for m in c.metrics)))]]
    for i, row in enumerate(report.rows):
        cells = [(c, c.rows[i], row_cells(c, c.rows[i])) for c in report.columns]
        body.append([row.name, *(w for _, r, found in cells for w in mine(r, found))])
        if any(r.published for _, r, _ in cells):
            body.append(["  published", *(w for _, _, found in cells for w in ("", *map(theirs, found)))])
        if alone and any(c.verdict for _, _, found in cells for c in found):
            body.append(["  verdict", "", *(c.verdict.words if c.verdict else "" for c in cells[0][2])])
    widths = [max(map(len, words)) for words in zip(*body, strict=True)]
    lines = ["  ".join(word.ljust(w) for word, w in zip(words, widths, strict=True)).rstrip() for words in body]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    if not alone:
        lines.insert(0, _headings(report.columns, widths))
    said = []
    for column in report.columns:
        beneath = [textwrap.fill(line, 110, subsequent_indent="    ") for line in remarks(column)]
        said += ["", *[column.name] * (not alone), *beneath] if beneath else []
    found = [
        textwrap.fill(line, 110, initial_indent="  ", subsequent_indent="    ") for line in judgement.lines(report)
    ]
    said += ["", "The papers' findings (shows: the 95% intervals of both means are apart):", *found] if found else []
    return "\n".join([report.title, *captions(report), "", *lines, *said])


def _headings(columns: Sequence[ColumnReport], widths: Sequence[int]) -> str:
    """Writes the columns' names over their numbers."""
    line, at, first = "", widths[0] + 2, 1
    for column in columns:
        line = line.ljust(at) + column.name + "  "
        here = widths[first : first + 1 + len(column.metrics)]
        at, first = at + sum(here) + 2 * len(here), first + len(here)
    return line.rstrip()


def captions(report: ExperimentReport) -> list[str]:
    """Says how the numbers of all columns came about."""
    return [line for column in report.columns for line in caption(column)]


def caption(column: ColumnReport) -> list[str]:
    """Says how the numbers of a column came about, in one or two sentences per line."""
    n = len(column.seeds)
    ours = f"mean ± sample std over n = {n} trials (seeds {column.seeds[0]} to {column.seeds[-1]})"
    lines = [f"Ours: {column.runner}, {ours if n > 1 else f'one trial (seed {column.seeds[0]}), so no std'}."]
    if column.has_published:
        source = column.source or "the experiment file, which names no source"
        lines.append(f"Published: {source}. In brackets beside it: ours minus published.")
    if len(column.run) > 1:
        lines.append(f"In brackets beside ours: minus the row '{column.baseline.name}'.")
    return [column.prefix + line for line in lines]


def remarks(column: ColumnReport) -> list[str]:
    """Says what a reader must know beneath the table: missing trials, problems, comparison with published numbers."""
    lines: list[str] = []
    for row in column.rows:
        if row.aggregate is None and len(row.results) < len(row.seeds):
            lines.append(f"{row.name}: {row.state}, so not averaged{_so_far(column, row)}.")
        lines += [f"{row.name}: {problem}." for problem in row.problems]
        lines += [f"{row.name}, {label}: {why}" for label, why in undefined(column, row)]
    if judged := verdicts(column):
        within = sum(verdict.status == "within" for _, _, verdict in judged)
        lines.append(f"Within noise of the published number ({rules(column)}): {within} of {len(judged)}.")
        lines += [f"  {row.name}, {m.label}: {v.words}" for row, m, v in judged if v.outside]
    if tested := comparisons(column):
        lines.append(f"Against '{column.baseline.name}' (95% interval, Welch's t-test, Hedges' g):")
        lines += [f"  {row.name}, {m.label}: {versus.words}" for row, m, versus in tested]
    return lines


def undefined(column: ColumnReport, row: RowReport) -> list[tuple[str, str]]:
    """Returns (label, why) of the metrics that are undefined in all trials, where the results say why."""
    return [(m.label, why) for m in column.metrics if not row.values(m.key) and (why := row.undefined(m.key))]


def _so_far(column: ColumnReport, row: RowReport) -> str:
    values = {m.label: row.values(m.key) for m in column.metrics}
    found = [f"{label} {', '.join(f'{v:.1f}' for v in known)}" for label, known in values.items() if known]
    return f" (so far {'; '.join(found)})" if found else ""


def count(row: RowReport) -> str:
    """Says how many trials the row's mean is of, or how far the row is; empty for a row that is not run."""
    if not row.is_run:
        return ""
    return str(len(row.aggregate.seeds)) if row.aggregate is not None else row.state.split(", ")[0]


def mine(row: RowReport, cells: Sequence[Cell]) -> list[str]:
    """Writes the number of trials and our numbers; blanks for a row that is not run in this column."""
    return [count(row), *map(ours, cells)] if row.is_run else [""] * (1 + len(cells))


def ours(c: Cell) -> str:
    """Writes our number as `81.5 ± 0.2 (+0.3)`, or a dash if there is no mean yet."""
    if c.statistic is None:
        return "-"
    return str(c.statistic) + (f" ({signed(c.gain)})" if c.gain is not None else "")


def theirs(c: Cell) -> str:
    """Writes the published number as `81.5 (-0.1)`, `fail`, or nothing."""
    if c.published is None:
        return ""
    number = f"{c.published:.1f}" if isinstance(c.published, float) else c.published
    return number + (f" ({signed(c.gap)})" if c.gap is not None else "")
