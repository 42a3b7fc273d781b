"""Writes the experiment's table for a paper: a row per initialisation, metrics across, gains in brackets.

Gains are differences to the baseline. The table needs the packages booktabs and xcolor. Published numbers have grey
rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.runtime.wording import visible
from transfer.report.collected import ExperimentReport, RowReport
from transfer.report.tables import Cell, captions, row_cells, signed

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_HEAD = r"""% needs \usepackage{booktabs} and \usepackage{xcolor}
\begin{table}
\centering
\definecolor{better}{rgb}{0.11,0.48,0.24}"""


def table(report: ExperimentReport) -> str:
    """Returns a table environment for \\input. A gain of 0.5 points or more that is significant by test is green."""
    metrics = [m for column in report.columns for m in column.metrics]
    heads = " & ".join(f"\\multicolumn{{2}}{{c}}{{{escaped(m.label)}}}" for m in metrics)
    lines = [_HEAD, "\\begin{tabular}{l" + "r@{\\;}l" * len(metrics) + "}", "\\toprule", *_groups(report)]
    lines += [f"pre-train & {heads} \\\\", _rules([1] * len(metrics))]
    for i, row in enumerate(report.rows):
        rows = [(column, column.rows[i], row_cells(column, column.rows[i])) for column in report.columns]
        ours = [_ours(mine, c) for _, mine, cells in rows for c in cells]
        lines.append(" & ".join([escaped(row.name), *ours]) + " \\\\")
        if any(mine.published for _, mine, _ in rows):
            theirs = " & ".join(_published(c) for _, _, cells in rows for c in cells)
            lines.append(f"\\quad\\textcolor{{gray}}{{published}} & {theirs} \\\\")
    unfinished = [f"{c.prefix}{row.name}: {row.state}, not averaged." for c in report.columns for row in c.unfinished]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines.append(f"\\caption{{{escaped(' '.join([report.title + '.', *captions(report), *unfinished]))}}}")
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _groups(report: ExperimentReport) -> list[str]:
    """Returns the columns' names over their metrics, if there are several columns."""
    if len(report.columns) == 1:
        return []
    sizes = [len(column.metrics) for column in report.columns]
    names = [
        f"\\multicolumn{{{2 * size}}}{{c}}{{{escaped(column.name)}}}"
        for column, size in zip(report.columns, sizes, strict=True)
    ]
    return [f" & {' & '.join(names)} \\\\", _rules(sizes)]


def _rules(sizes: Sequence[int]) -> str:
    """Returns a rule beneath each group of metrics; `sizes` are the groups' numbers of metrics."""
    ends = [1 + 2 * sum(sizes[: i + 1]) for i in range(len(sizes))]
    return "".join(f"\\cmidrule(lr){{{e - 2 * n + 1}-{e}}}" for e, n in zip(ends, sizes, strict=True))


def escaped(words: str) -> str:
    """Returns text escaped for LaTeX, on one line."""
    return "".join(_SPECIAL.get(c, c) for c in " ".join(visible(words).splitlines()))


def _ours(row: RowReport, c: Cell) -> str:
    """Returns two columns: the mean with its std, and the gain."""
    if not row.is_run:
        return "&"
    if c.statistic is None:
        return f"\\multicolumn{{2}}{{c}}{{\\footnotesize {escaped(row.state.split(', ')[0])}}}"
    std = "" if c.statistic.std is None else f" {{\\scriptsize$\\pm$\\,{c.statistic.std:.1f}}}"
    gain = ""
    if c.gain is not None:
        gain = f"({signed(c.gain)})".replace("-", "$-$")
        gain = f"\\textcolor{{better}}{{{gain}}}" if c.better else gain
    return f"{c.statistic.mean:.1f}{std} & {gain}".rstrip()


def _published(c: Cell) -> str:
    """Returns two columns: the published number, and ours minus it."""
    if c.published is None:
        return "&"
    if not isinstance(c.published, float):
        return f"\\multicolumn{{2}}{{c}}{{\\textcolor{{gray}}{{{c.published}}}}}"
    gap = "" if c.gap is None else " \\textcolor{gray}{" + f"({signed(c.gap)})".replace("-", "$-$") + "}"
    return f"\\textcolor{{gray}}{{{c.published:.1f}}} &{gap}"
