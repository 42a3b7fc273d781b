"""The experiment's table: for the terminal, as Markdown, CSV and JSON. Published numbers stand apart from ours."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from transfer.evaluation.bands import COCO_GAP, EXPECTED_STD
from transfer.report.collect import ExperimentReport, RowReport, collect, metric_key, metric_label
from transfer.trials.aggregate import Statistic
from transfer.trials.reproduce import Plan
from transfer.trials.significance import Comparison, Verdict, against_one_run, against_published, interval, welch

_STDS = ", ".join(f"{name} {std}" for name, std in EXPECTED_STD.items())
RULE = (
    "by this project's rule: on VOC by Welch's t-test at 5%, a published mean taken as of five trials with the "
    f"expected std ({_STDS}); on COCO AP by a gap of at most {COCO_GAP}"
)
GREEN = 0.5  # points over the baseline from which the papers print a gain in green


@dataclass(frozen=True)
class Cell:
    """One row in one metric, in points. What is unknown is None.

    Attributes:
        statistic: ours; None unless every trial is there.
        published: as the experiment file gives it.
        gap: ours minus published.
        gain: ours minus the baseline row's (None in that row).
        verdict: whether `gap` is noise; None where no rule covers the metric.
        interval: 95%, of the mean; None for one trial.
        versus: the test behind `gain`; None unless both rows have two trials or more.
    """

    statistic: Statistic | None
    published: float | None
    gap: float | None
    gain: float | None
    verdict: Verdict | None
    interval: tuple[float, float] | None = None
    versus: Comparison | None = None


def cell(report: ExperimentReport, row: RowReport, metric: str) -> Cell:
    ours, published = row.statistic(metric), row.published.get(metric_key(metric))
    base = report.baseline.statistic(metric) if row is not report.baseline else None
    return Cell(
        statistic=ours,
        published=published,
        gap=ours.mean - published if ours is not None and published is not None else None,
        gain=ours.mean - base.mean if ours is not None and base is not None else None,
        verdict=_verdict(row, metric, ours, published),
        interval=None if ours is None else interval(ours),
        versus=welch(ours, base) if ours is not None and base is not None else None,
    )


def verdicts(report: ExperimentReport) -> list[tuple[RowReport, str, Verdict]]:
    """(row, metric, verdict) of every number that can be compared with a published one."""
    found = [(row, m, cell(report, row, m).verdict) for row in report.rows for m in report.metrics]
    return [(row, m, verdict) for row, m, verdict in found if verdict is not None and verdict.status != "open"]


def comparisons(report: ExperimentReport) -> list[tuple[RowReport, str, Comparison]]:
    """(row, metric, test) of every mean that can be compared with the baseline row's."""
    found = [(row, m, cell(report, row, m).versus) for row in report.rows for m in report.metrics]
    return [(row, m, versus) for row, m, versus in found if versus is not None]


def signed(x: float, minus: str = "-") -> str:
    """One decimal with its sign, and never -0.0."""
    text = f"{x:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", minus)


def text_table(plan: Plan) -> str:
    """The experiment's table for the terminal, of what is on disk now. Raises what `collect` raises."""
    return text(collect(plan))


def text(report: ExperimentReport) -> str:
    """Per row name, trials and mean ± std, and beneath it the published number with ours minus it."""
    body: list[list[str]] = [["", "n", *(metric_label(m) for m in report.metrics)]]
    for row in report.rows:
        cells = [cell(report, row, m) for m in report.metrics]
        body.append([row.name, _count(row), *map(_ours, cells)])
        if row.published:
            body.append(["  published", "", *(_published(c) for c in cells)])
        if any(c.verdict for c in cells):
            body.append(["  verdict", "", *(c.verdict.words if c.verdict else "" for c in cells)])
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = ["  ".join(word.ljust(w) for word, w in zip(words, widths, strict=True)).rstrip() for words in body]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    remarks = [textwrap.fill(line, 110, subsequent_indent="    ") for line in _remarks(report)]
    return "\n".join([report.title, *caption(report), "", *lines, *remarks])


def caption(report: ExperimentReport) -> list[str]:
    """How the numbers of the table came about, for its reader: one sentence or two per line."""
    n = len(report.seeds)
    ours = f"mean ± sample std over n = {n} trials (seeds {report.seeds[0]} to {report.seeds[-1]})"
    lines = [f"Ours: {report.runner}, {ours if n > 1 else f'one trial (seed {report.seeds[0]}), so no std'}."]
    if report.has_published:
        source = report.source or "the experiment file, which names no source"
        lines.append(f"Published: {source}. In brackets beside it: ours minus published.")
    if len(report.rows) > 1:
        lines.append(f"In brackets beside ours: minus the row '{report.baseline.name}'.")
    return lines


def markdown(report: ExperimentReport) -> str:
    """The table for a README or an issue; published numbers in rows of their own."""
    lines = [f"**{_escaped(report.title)}**", ""]
    lines.append("| row | n | " + " | ".join(metric_label(m) for m in report.metrics) + " |")
    lines.append("|---|---|" + "---|" * len(report.metrics))
    for row in report.rows:
        cells = [cell(report, row, m) for m in report.metrics]
        ours = map(_ours, cells)
        lines.append(f"| {_escaped(row.name)} | {_count(row)} | " + " | ".join(ours) + " |")
        if row.published:
            theirs = " | ".join(f"*{t}*" if (t := _published(c)) else "" for c in cells)
            lines.append(f"| *published* | | {theirs} |")
        if any(c.verdict for c in cells):
            lines.append("| *verdict* | | " + " | ".join(c.verdict.words if c.verdict else "" for c in cells) + " |")
    remarks = [_escaped(line) for line in (*caption(report), *_remarks(report)) if line]
    return "\n".join([*lines, "", *(f"* {line}" for line in remarks)]) + "\n"


def to_json(report: ExperimentReport) -> dict[str, Any]:
    """The table with every trial's number, as JSON values."""
    rows = []
    for row in report.rows:
        metrics: dict[str, Any] = {}
        for m in report.metrics:
            c, values = cell(report, row, m), row.values(m)
            s = c.statistic
            metrics[metric_key(m)] = {
                "mean": None if s is None else s.mean,
                "std": None if s is None else s.std,
                "interval95": None if c.interval is None else list(c.interval),
                "values": list(values),
                "published": c.published,
                "minus_published": c.gap,
                "minus_baseline": c.gain,
                "versus_baseline": None if c.versus is None else asdict(c.versus),
                "verdict": None if c.verdict is None else c.verdict.words,
                "p_published": None if c.verdict is None else c.verdict.p,
            }
        rows.append(
            {
                "name": row.name,
                "trials": len(row.seeds) if row.aggregate is not None else len(row.results),
                "wanted": len(row.seeds),
                "failed": {str(seed): reason for seed, reason in row.failed.items()},
                "problems": list(row.problems),
                "metrics": metrics,
            }
        )
    return {
        "title": report.title,
        "source": report.source,
        "engine": report.engine,
        "seeds": list(report.seeds),
        "baseline": report.baseline.name,
        "rows": rows,
    }


def to_csv(report: ExperimentReport) -> str:
    """One line per row and metric; empty fields are unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["row", "engine", "metric", "n", "wanted", "mean", "std", "low95", "high95", "published", "verdict", "source"]
    )
    for row, m in ((row, m) for row in report.rows for m in report.metrics):
        c = cell(report, row, m)
        ours = (
            (len(row.results), None, None)
            if c.statistic is None
            else (c.statistic.n, c.statistic.mean, c.statistic.std)
        )
        n, mean, std = ours
        source = None if c.published is None else report.source  # csv writes None as an empty field
        words = None if c.verdict is None else c.verdict.words
        bounds = c.interval or (None, None)
        counts = [row.name, report.engine, metric_key(m), n, len(row.seeds)]
        writer.writerow([*counts, mean, std, *bounds, c.published, words, source])
    return out.getvalue()


def _verdict(row: RowReport, metric: str, ours: Statistic | None, published: float | None) -> Verdict | None:
    if ours is None or published is None or row.evaluation is None:
        return None
    task, _, name = metric_key(metric).rpartition("/")
    if row.evaluation == "COCO":
        return against_one_run(ours, published) if name == "AP" else None
    if task != "bbox" or name not in EXPECTED_STD:
        return None
    return against_published(ours, published, EXPECTED_STD[name])


def _remarks(report: ExperimentReport) -> Iterator[str]:
    """What must be said beneath the table: missing trials, problems, and how the published numbers compare."""
    lines = []
    for row in report.rows:
        if row.aggregate is None and len(row.results) < len(row.seeds):
            lines.append(f"{row.name}: {row.state}, so not averaged{_so_far(report, row)}.")
        lines += [f"{row.name}: {problem}." for problem in row.problems]
    if judged := verdicts(report):
        within = sum(verdict.status == "within" for _, _, verdict in judged)
        lines.append(f"Within noise of the published number ({RULE}): {within} of {len(judged)}.")
        lines += [f"  {row.name}, {metric_label(m)}: {v.words}" for row, m, v in judged if v.outside]
    if tested := comparisons(report):
        lines.append(f"Against '{report.baseline.name}' (95% interval, Welch's t-test, Hedges' g):")
        lines += [f"  {row.name}, {metric_label(m)}: {versus.words}" for row, m, versus in tested]
    if lines:
        yield ""
    yield from lines


def _so_far(report: ExperimentReport, row: RowReport) -> str:
    found = [
        f"{metric_label(m)} {', '.join(f'{v:.1f}' for v in row.values(m))}" for m in report.metrics if row.values(m)
    ]
    return f" (so far {'; '.join(found)})" if found else ""


def _count(row: RowReport) -> str:
    return str(len(row.aggregate.seeds)) if row.aggregate is not None else row.state.split(", ")[0]


def _ours(c: Cell) -> str:
    if c.statistic is None:
        return "-"
    return str(c.statistic) + (f" ({signed(c.gain)})" if c.gain is not None else "")


def _published(c: Cell) -> str:
    if c.published is None:
        return ""
    return f"{c.published:.1f}" + (f" ({signed(c.gap)})" if c.gap is not None else "")


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("*", "\\*")
