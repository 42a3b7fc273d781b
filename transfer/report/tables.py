"""The experiment's table: for the terminal, as Markdown, CSV and JSON. Published numbers stand apart from ours."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transfer.evaluation.bands import COCO_GAP, EXPECTED_STD, Verdict, compare, compare_coco
from transfer.report.collect import ExperimentReport, RowReport, collect, metric_key, metric_label
from transfer.trials.aggregate import Statistic
from transfer.trials.reproduce import Plan

RULE = (
    "by this project's rule: on VOC a gap of at most twice its standard error, the larger of our and the expected std "
    f"taken for both means; on COCO AP a gap of at most {COCO_GAP}"
)


@dataclass(frozen=True)
class Cell:
    """One row in one metric, in points. What is unknown is None.

    Attributes:
        statistic: ours; None unless every trial is there.
        published: as the experiment file gives it.
        gap: ours minus published.
        gain: ours minus the baseline row's (None in that row).
        verdict: whether `gap` is noise; None where no rule covers the metric.
    """

    statistic: Statistic | None
    published: float | None
    gap: float | None
    gain: float | None
    verdict: Verdict | None


def cell(report: ExperimentReport, row: RowReport, metric: str) -> Cell:
    ours, published = row.statistic(metric), row.published.get(metric_key(metric))
    base = report.baseline.statistic(metric) if row is not report.baseline else None
    return Cell(
        statistic=ours,
        published=published,
        gap=ours.mean - published if ours is not None and published is not None else None,
        gain=ours.mean - base.mean if ours is not None and base is not None else None,
        verdict=_verdict(row, metric, ours, published),
    )


def verdicts(report: ExperimentReport) -> list[tuple[RowReport, str, Verdict]]:
    """(row, metric, verdict) of every number that can be compared with a published one."""
    found = [(row, m, cell(report, row, m).verdict) for row in report.rows for m in report.metrics]
    return [(row, m, verdict) for row, m, verdict in found if verdict is not None and verdict.status != "open"]


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
        body.append([row.name, _count(row), *("-" if c.statistic is None else str(c.statistic) for c in cells)])
        if row.published:
            body.append(["  published", "", *(_published(c) for c in cells)])
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
        lines.append(f"Published: {source}. In brackets: ours minus published.")
    return lines


def markdown(report: ExperimentReport) -> str:
    """The table for a README or an issue; published numbers in rows of their own."""
    lines = [f"**{_escaped(report.title)}**", ""]
    lines.append("| row | n | " + " | ".join(metric_label(m) for m in report.metrics) + " |")
    lines.append("|---|---|" + "---|" * len(report.metrics))
    for row in report.rows:
        cells = [cell(report, row, m) for m in report.metrics]
        ours = ("-" if c.statistic is None else str(c.statistic) for c in cells)
        lines.append(f"| {_escaped(row.name)} | {_count(row)} | " + " | ".join(ours) + " |")
        if row.published:
            theirs = " | ".join(f"*{t}*" if (t := _published(c)) else "" for c in cells)
            lines.append(f"| *published* | | {theirs} |")
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
                "values": list(values),
                "published": c.published,
                "minus_published": c.gap,
                "minus_baseline": c.gain,
                "verdict": None if c.verdict is None else c.verdict.status,
            }
        rows.append(
            {
                "name": row.name,
                "trials": len(row.seeds) if row.aggregate is not None else len(row.results),
                "wanted": len(row.seeds),
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
    writer.writerow(["row", "engine", "metric", "n", "wanted", "mean", "std", "published", "source"])
    for row, m in ((row, m) for row in report.rows for m in report.metrics):
        c = cell(report, row, m)
        ours = (
            (len(row.results), None, None)
            if c.statistic is None
            else (c.statistic.n, c.statistic.mean, c.statistic.std)
        )
        n, mean, std = ours
        source = None if c.published is None else report.source  # csv writes None as an empty field
        writer.writerow([row.name, report.engine, metric_key(m), n, len(row.seeds), mean, std, c.published, source])
    return out.getvalue()


def _verdict(row: RowReport, metric: str, ours: Statistic | None, published: float | None) -> Verdict | None:
    if ours is None or published is None or row.evaluation is None:
        return None
    task, _, name = metric_key(metric).rpartition("/")
    if row.evaluation == "COCO":
        return compare_coco(ours.n, ours.mean, published) if name == "AP" else None
    if task != "bbox" or name not in EXPECTED_STD:
        return None
    return compare(ours.n, ours.mean, ours.std or 0.0, published, EXPECTED_STD[name])


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
        outside = [(row, m, v) for row, m, v in judged if v.status == "outside"]
        lines += [f"  {row.name}, {metric_label(m)}: {v.text}" for row, m, v in outside]
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


def _published(c: Cell) -> str:
    if c.published is None:
        return ""
    return f"{c.published:.1f}" + (f" ({signed(c.gap)})" if c.gap is not None else "")


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("*", "\\*")
