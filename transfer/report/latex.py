"""The experiment's table for a paper: rows by initialisation, metrics across, differences to the baseline in brackets.

Needs the packages booktabs and xcolor. Published numbers stand in grey rows of their own.
"""

from __future__ import annotations

from transfer.report.collect import ExperimentReport, RowReport, metric_label
from transfer.report.tables import GREEN, Cell, caption, cell, signed

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_HEAD = r"""% needs \usepackage{booktabs} and \usepackage{xcolor}
\begin{table}
\centering
\definecolor{better}{rgb}{0.11,0.48,0.24}"""


def table(report: ExperimentReport) -> str:
    """A table environment, ready to be \\input. A gain of 0.5 points or more over the baseline is green."""
    metrics = report.metrics
    heads = " & ".join(f"\\multicolumn{{2}}{{c}}{{{escaped(metric_label(m))}}}" for m in metrics)
    rules = "".join(f"\\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(metrics)))
    lines = [_HEAD, "\\begin{tabular}{l" + "r@{\\;}l" * len(metrics) + "}", "\\toprule"]
    lines += [f"pre-train & {heads} \\\\", rules]
    for row in report.rows:
        cells = [cell(report, row, m) for m in metrics]
        lines.append(" & ".join([escaped(row.name), *(_ours(row, c) for c in cells)]) + " \\\\")
        if row.published:
            theirs = " & ".join(_published(c) for c in cells)
            lines.append(f"\\quad\\textcolor{{gray}}{{published}} & {theirs} \\\\")
    notes = [*caption(report), *(f"{row.name}: {row.state}, not averaged." for row in report.unfinished)]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines.append(f"\\caption{{{escaped(' '.join([report.title + '.', *notes]))}}}")
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def escaped(words: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(c, c) for c in words)


def _ours(row: RowReport, c: Cell) -> str:
    """Two columns: the mean with its std, and the gain."""
    if c.statistic is None:
        return f"\\multicolumn{{2}}{{c}}{{\\footnotesize {escaped(row.state.split(', ')[0])}}}"
    std = "" if c.statistic.std is None else f" {{\\scriptsize$\\pm$\\,{c.statistic.std:.1f}}}"
    gain = ""
    if c.gain is not None:
        gain = f"({signed(c.gain)})".replace("-", "$-$")
        gain = f"\\textcolor{{better}}{{{gain}}}" if round(c.gain, 1) >= GREEN else gain
    return f"{c.statistic.mean:.1f}{std} & {gain}".rstrip()


def _published(c: Cell) -> str:
    """Two columns: the published number, and ours minus it."""
    if c.published is None:
        return "&"
    gap = "" if c.gap is None else " \\textcolor{gray}{" + f"({signed(c.gap)})".replace("-", "$-$") + "}"
    return f"\\textcolor{{gray}}{{{c.published:.1f}}} &{gap}"
