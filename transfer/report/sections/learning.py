"""Draws curves of fine-tuning (its loss and its evaluations during training) and of pre-training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from transfer.report.collected import ColumnReport, Curve, ExperimentReport, RowReport
from transfer.report.figures.row_plots import Line, curves, points
from transfer.report.markup import Markup, named, section, tag


def learning(report: ExperimentReport) -> Markup | None:
    """Draws curves of fine-tuning and of the experiment's own pre-trainings."""
    figures = []
    for n, column in enumerate(report.columns):
        figures += [_fine_tuning(column, f"loss{n}"), *_evaluations(column, f"eval{n}")]
    for n, (name, title, what) in enumerate(
        (
            ("loss", "Pre-training: loss", "Contrastive loss; supervised: cross-entropy of the classes"),
            (
                "acc1",
                "Pre-training: accuracy",
                "How often the positive key, or the right class, scores highest, percent",
            ),
            (
                "knn/acc1",
                "Pre-training: kNN accuracy",
                "Frozen features, percent; the first point is the untrained trunk",
            ),
        )
    ):
        figures.append(_pretraining(report, name, title, what, f"pre{n}"))
    found = [figure for figure in figures if figure is not None]
    if not found:
        return None
    legend = [tag("li", named(i, row.name)) for i, row in enumerate(report.rows)]
    return section(
        "learning", "Learning curves", tag("ul", *legend, class_="legend"), tag("div", *found, class_="charts")
    )


def _fine_tuning(column: ColumnReport, prefix: str) -> Markup | None:
    runs = [(i, row.name, curve) for i, row in enumerate(column.rows) for curve in row.curves.values()]
    title = f"{column.prefix}fine-tuning: total loss" if column.name else "Fine-tuning: total loss"
    return _figure(runs, "total_loss", title, "One line per trial", prefix)


def _evaluations(column: ColumnReport, prefix: str) -> list[Markup | None]:
    """Draws a figure per metric that trials evaluated during training (TEST.EVAL_PERIOD), up to their results."""
    figures = []
    for k, metric in enumerate(column.metrics):
        runs = [(i, row.name, curve) for i, row in enumerate(column.rows) for curve in _evaluated(row, metric.key)]
        title, what = f"{column.prefix}{metric.label} over iterations", "One line per trial, its result the last point"
        figures.append(_figure(runs, metric.key, title, what, f"{prefix}-{k}", from_zero=False))
    return figures


def _evaluated(row: RowReport, key: str) -> Iterator[Curve]:
    """Yields, for each trial evaluated during training, these numbers followed by that of its result."""
    results = {r.seed: r for r in row.results}
    for seed, curve in row.curves.items():
        on_the_way = [{"iteration": line["iteration"], key: line[key]} for line in curve if line.get(key) is not None]
        if not on_the_way:
            continue
        last, result = on_the_way[-1]["iteration"], results.get(seed)
        if result is not None and result.iterations - 1 > last and math.isfinite(result.metrics.get(key, math.nan)):
            on_the_way.append({"iteration": result.iterations - 1, key: result.metrics[key]})
        yield on_the_way


def _pretraining(report: ExperimentReport, name: str, title: str, what: str, prefix: str) -> Markup | None:
    cells = sorted(((i, row) for _, i, row in report.cells() if row.pretrain), key=lambda cell: -cell[0])
    owners = {row.pretrain: i for i, row in cells}  # its first row
    runs = [(owners[p.name], p.name, p.curve) for p in report.pretrainings if p.name in owners]
    return _figure(runs, name, title, what, prefix, say_ends=True)


def _figure(
    runs: Sequence[tuple[int, str, Curve]],
    scalar: str,
    title: str,
    what: str,
    prefix: str,
    say_ends: bool = False,
    from_zero: bool = True,
) -> Markup | None:
    """Draws `runs`, each (row number, name, curve).

    Args:
        say_ends: write first and last values beneath.
        from_zero: start the axis at zero.
    """
    lines, widths, ends = [], set(), []
    for colour, name, curve in runs:
        found, width = points(curve, scalar)
        if found:
            lines.append(Line(colour, found))
            widths.add(width)
            ends.append(f"{name} {found[0][1]:.2f} to {found[-1][1]:.2f}")
    if not lines:
        return None
    smooth = f"; each point is the mean of up to {max(widths)} logged values" if max(widths) > 1 else ""
    chart = curves(lines, "iteration", f"{title}, first to last point: {'; '.join(ends)}.", prefix, from_zero)
    said = f" First to last: {'; '.join(ends)}." if say_ends else ""
    return tag("figure", tag("h3", title), chart, tag("figcaption", f"{what}{smooth}.{said}"), class_="card")
