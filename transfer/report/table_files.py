"""Writes the experiment's table as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pretrain.runtime.wording import visible
from transfer.evaluation.metric import Metric
from transfer.report import judgement
from transfer.report.collected import ColumnReport, ExperimentReport, RowReport
from transfer.report.tables import Cell, caption, cell, mine, remarks, row_cells, theirs


def markdown(report: ExperimentReport) -> str:
    """Returns the table for a README or an issue, with published numbers in rows of their own."""
    heads = [word for c in report.columns for word in ("n", *(f"{c.name} {m.label}".strip() for m in c.metrics))]
    lines = [f"**{escaped(report.title)}**", "", line("row", map(escaped, heads)), "|---|" + "---|" * len(heads)]
    for i, first in enumerate(report.rows):
        rows = [(c.rows[i], row_cells(c, c.rows[i])) for c in report.columns]
        cells = [c for _, found in rows for c in found]
        lines.append(line(escaped(first.name), (w for row, found in rows for w in mine(row, found))))
        for name, words in (("published", theirs), ("verdict", _verdict)):
            if any(map(words, cells)):
                beneath = (w for _, found in rows for w in ("", *map(words, found)))
                lines.append(line(f"*{name}*", (f"*{w}*" if w and words is theirs else w for w in beneath)))
    said = [escaped(line) for c in report.columns for line in (*caption(c), *_remarks(c)) if line]
    said += [escaped(line) for line in judgement.lines(report)]
    return "\n".join([*lines, "", *(f"* {line}" for line in said)]) + "\n"


def line(name: str, words: Iterable[str]) -> str:
    """Returns a row of a table in Markdown; the words must already be escaped."""
    return "|" + "|".join(f" {word} " if word else " " for word in (name, *words)) + "|"


def _remarks(column: ColumnReport) -> list[str]:
    return [column.prefix + line.strip() for line in remarks(column)]


def _verdict(c: Cell) -> str:
    return c.verdict.words if c.verdict else ""


def to_json(report: ExperimentReport) -> dict[str, Any]:
    """Returns the table with every trial's number as JSON values; several columns are a list."""
    columns = [_column(column) for column in report.columns]
    found = {"findings": judgement.to_json(report)} if report.findings else {}
    if len(columns) == 1 and not report.columns[0].name:
        return {"title": report.title, **columns[0], **found}
    named = [{"name": c.name, **values} for c, values in zip(report.columns, columns, strict=True)]
    return {"title": report.title, "columns": named, **found}


def _column(column: ColumnReport) -> dict[str, Any]:
    return {
        "source": column.source,
        "engine": column.engine,
        "seeds": list(column.seeds),
        "baseline": column.baseline.name,
        "rows": [_row(column, row) for row in column.rows if row.is_run or row.published],
    }


def _row(column: ColumnReport, row: RowReport) -> dict[str, Any]:
    return {
        "name": row.name,
        "trials": len(row.seeds) if row.aggregate is not None else len(row.results),
        "wanted": len(row.seeds),
        "failed": {str(seed): reason for seed, reason in row.failed.items()},
        "problems": list(row.problems),
        "metrics": {m.key: _numbers(row, m, cell(column, row, m)) for m in column.metrics},
    }


def _numbers(row: RowReport, metric: Metric, c: Cell) -> dict[str, Any]:
    s = c.statistic
    return {
        "mean": None if s is None else s.mean,
        "std": None if s is None else s.std,
        "interval95": None if c.interval is None else list(c.interval),
        "values": list(row.values(metric.key)),
        "undefined": row.undefined(metric.key) or None,
        "published": c.published,
        "minus_published": c.gap,
        "minus_baseline": c.gain,
        "versus_baseline": None if c.versus is None else asdict(c.versus),
        "verdict": _verdict(c) or None,
        "p_published": None if c.verdict is None else c.verdict.p,
    }


_FIELDS = (
    "row", "engine", "metric", "n", "wanted", "mean", "std", "low95", "high95", "published", "verdict", "source",
)  # fmt: skip


def to_csv(report: ExperimentReport) -> str:
    """Returns a line per row and metric; empty fields are unknown. With several columns, their names come first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    named = any(column.name for column in report.columns)
    writer.writerow([*["column"] * named, *_FIELDS])
    for column in report.columns:
        for row, m in ((row, m) for row in column.rows if row.is_run or row.published for m in column.metrics):
            c = cell(column, row, m)
            s = c.statistic
            n, mean, std = (len(row.results), None, None) if s is None else (s.n, s.mean, s.std)
            source = None if c.published is None else column.source  # csv writes None as an empty field
            counts = [row.name, column.engine, m.key, n, len(row.seeds)]
            bounds = c.interval or (None, None)
            words = _verdict(c) or None
            cells = [*[column.name] * named, *counts, mean, std, *bounds, c.published, words, source]
            writer.writerow([plain(value) if isinstance(value, str) else value for value in cells])
    return out.getvalue()


def plain(words: str) -> str:
    """Returns words as a cell that a spreadsheet does not compute; words that start a formula get an apostrophe."""
    words = visible(words)
    return f"'{words}" if re.match(r"\s*[=+\-@＝＋－＠]|[\t\n]", words) else words


def escaped(words: str) -> str:
    """Escapes words for Markdown, table cells included, on one line: no HTML, no links, no emphasis."""
    words = " ".join(visible(words).splitlines())
    return re.sub(r"[\\|*<>`\[\]&~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", words)
