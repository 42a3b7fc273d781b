"""Draws figures of whole rows: trials as dots, curves over iterations, slopes between schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from transfer.report.collected import Curve
from transfer.report.figures.labels import LINE, width, wrapped
from transfer.report.figures.svg import CARD, MUTED, STYLE, TEXT, axes, inline, row_colour
from transfer.report.markup import Markup

PITCH = 44  # pixels of a row whose name has one line
FEW = 20  # points of a curve up to which each is marked; one alone is no line


@dataclass(frozen=True)
class Dots:
    """Holds one row in one metric.

    Attributes:
        label: the words at the right, e.g. `81.5 ± 0.2` or `3 of 5 trials`.
        interval: 95% interval of the mean.
    """

    name: str
    colour: int
    values: Sequence[float]
    mean: float | None
    std: float | None
    published: float | None
    label: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """Holds one run's curve of one scalar."""

    colour: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Slope:
    """Holds one row's values under two schedules, either published or ours."""

    colour: int
    left: float
    right: float
    published: bool


def dots(rows: Sequence[Dots], alt: str, prefix: str) -> Markup:
    """Draws trials as dots, mean and std as a bar, the interval as a thin line, the published number as hollow diamond.

    Args:
        prefix: makes ids unique.
    """
    top, bottom = 8.0, 30.0
    names = [wrapped(row.name, 324 - width(row.label)) for row in rows]
    ends = list(itertools.accumulate(PITCH + LINE * (len(lines) - 1) for lines in names))  # pixels from the top
    with matplotlib.rc_context(STYLE):
        figure, ax = axes(340, top + ends[-1] + bottom, left=2, right=2, top=top, bottom=bottom)
        ax.set_ylim(ends[-1], 0)
        near = near_enough(rows)
        ax.set_xlim(*_limits([v for r in near for v in _extent(r)], [v for r in near for v in r.interval or ()]))
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        left, right = ax.get_xlim()
        room = 0.03 * (right - left)  # for half a number, which would be cut at the edge of the picture
        ax.set_xticks([x for x in MaxNLocator(5).tick_values(left, right) if left + room <= x <= right - room])
        ax.tick_params(axis="x", length=0, pad=5)
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        for row, lines, end in zip(rows, names, ends, strict=True):
            _dots_row(ax, end - PITCH, row, lines)
        return inline(figure, alt, prefix)


def _dots_row(ax: Axes, last: float, row: Dots, lines: Sequence[str]) -> None:
    """Draws one row; `last` is the distance in pixels from the top to its name's last line, above its dots."""
    colour, y = row_colour(row.colour), last + 0.7 * PITCH
    first = last - LINE * (len(lines) - 1)
    named = [(0, first + LINE * n, line, "left", TEXT) for n, line in enumerate(lines)]
    for x, above, words, side, tone in (*named, (1, first, row.label, "right", MUTED)):
        where = ax.get_yaxis_transform()  # x in fractions of the axes, y in pixels
        ax.text(x, above + 0.3 * PITCH, words, transform=where, ha=side, va="center", color=tone, parse_math=False)
    left, right = ax.get_xlim()
    if (extent := _extent(row)) and (extent[-1] < left or extent[0] > right):
        at, side = (left, "<") if extent[-1] < left else (right, ">")
        ax.plot([at + (0.02 if side == "<" else -0.02) * (right - left)], [y], side, color=colour, ms=7)
        return
    if row.mean is not None:
        low, high = _bar(row)
        ax.plot([low, high], [y, y], color=colour, alpha=0.28, linewidth=9, solid_capstyle="butt", zorder=2)
        ax.plot([row.mean, row.mean], [y - 7.5, y + 7.5], color=colour, linewidth=2.2, zorder=3)
        if row.interval is not None:
            ax.plot(row.interval, [y, y], "|-", color=colour, linewidth=1.2, ms=8, mew=1.2, zorder=3)
    ax.plot(row.values, [y] * len(row.values), "o", color=colour, ms=5.5, mec=CARD, mew=0.8, alpha=0.9, zorder=4)
    if row.published is not None:
        ax.plot([row.published], [y], "D", mfc="none", mec=TEXT, mew=1.3, ms=7.5, zorder=5)


def curves(lines: Sequence[Line], x_label: str, alt: str, prefix: str, start_at_zero: bool = False) -> Markup:
    """Draws thin lines over iterations; the page has the legend."""
    with matplotlib.rc_context(STYLE):
        figure, ax = axes(340, 230, left=36, right=12, top=10, bottom=40)
        for line in lines:
            x, y = zip(*line.points, strict=True)
            few: dict[str, Any] = {"marker": "o", "markersize": 3.5, "clip_on": False} if len(x) <= FEW else {}
            ax.plot(x, y, color=row_colour(line.colour), linewidth=1.1, alpha=0.75, **few)
        ax.margins(x=0)
        if start_at_zero:
            ax.set_ylim(bottom=0)
        ax.set_xlabel(x_label, labelpad=6)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.tick_params(length=0, pad=5)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        return inline(figure, alt, prefix)


def slopes(lines: Sequence[Slope], ends: tuple[str, str], alt: str, prefix: str) -> Markup:
    """Draws a line per row from its value on the left to that on the right; the page has the legend."""
    with matplotlib.rc_context(STYLE):
        figure, ax = axes(340, 300, left=46, right=46, top=10, bottom=28)
        low, high = _limits([v for line in lines for v in (line.left, line.right)])
        ax.set_ylim(low, high)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 1], ends)
        ax.set_yticks([])
        ax.tick_params(length=0, pad=7)
        ax.spines["right"].set_visible(True)
        for line in lines:
            colour, dashes = row_colour(line.colour), "--" if line.published else "-"
            marker = "D" if line.published else "o"
            face = "none" if line.published else colour
            values = (line.left, line.right)
            ax.plot((0, 1), values, dashes, color=colour, marker=marker, mfc=face, lw=1.6, ms=6, clip_on=False)
        for x, align, shift in ((0, "right", -0.04), (1, "left", 0.04)):
            placed = _apart([(line.right if x else line.left, line.colour) for line in lines], (high - low) / 18)
            for y, value, row in placed:
                words = f"{value:.1f}"
                ax.text(x + shift, y, words, ha=align, va="center", color=row_colour(row), parse_math=False)
        return inline(figure, alt, prefix)


def _apart(values: Sequence[tuple[float, int]], least: float) -> list[tuple[float, float, int]]:
    """Returns (where to write it, value, colour) from below upwards, with no two nearer than `least`."""
    placed: list[tuple[float, float, int]] = []
    for value, colour in sorted(set(values)):
        y = value if not placed else max(value, placed[-1][0] + least)
        placed.append((y, value, colour))
    return placed


def points(curve: Curve, name: str, at_most: int = 120) -> tuple[list[tuple[float, float]], int]:
    """Returns (iteration, value) of one scalar of a curve, and of how many logged values each point is the mean.

    Lines without the scalar, or with null for it, are left out. Iterations count from 1, as steps that were done.
    """
    found = [(line["iteration"] + 1, line[name]) for line in curve if line.get(name) is not None]
    width = max(1, math.ceil(len(found) / at_most))
    groups = [found[i : i + width] for i in range(0, len(found), width)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups], width


def _bar(row: Dots) -> tuple[float, ...]:
    return () if row.mean is None else (row.mean - (row.std or 0.0), row.mean + (row.std or 0.0))


def _extent(row: Dots) -> list[float]:
    """Returns the sorted values of a row that the axis must show; a far wider interval (often of two trials) is cut."""
    return sorted(v for v in (*row.values, row.published, *_bar(row)) if v is not None)


def near_enough(rows: Sequence[Dots], gap: float = 8.0) -> list[Dots]:
    """Returns the rows that share a scale: one far off, such as random initialisation, would hide the others' spread.

    Neighbours less than `gap` points apart are in one group; the largest group is returned if it has two rows or more,
    else all rows.
    """
    groups: list[list[Dots]] = []
    top = -math.inf
    for row in sorted((r for r in rows if _extent(r)), key=lambda r: _extent(r)[0]):
        if not groups or _extent(row)[0] - top >= gap:
            groups.append([])
        groups[-1].append(row)
        top = max(top, _extent(row)[-1])
    largest = max(reversed(groups), key=len, default=[])
    return largest if len(largest) > 1 else list(rows)


def _limits(values: Sequence[float], intervals: Sequence[float] = ()) -> tuple[float, float]:
    """Returns limits around the values, at least one point of AP apart, since less would show noise as a difference.

    Intervals widen them by at most as much again to either side. Percentages stay within 0 and 100.
    """
    if not values:
        return 0.0, 100.0
    least, most = min(values), max(values)
    span = max(most - least, 1.0)
    low = max(min((*intervals, least)), least - span)
    high = min(max((*intervals, most)), most + span)
    span = max(high - low, 1.0)
    middle = (low + high) / 2
    left, right = middle - 0.6 * span, middle + 0.6 * span
    if 0 <= least and most <= 100:
        left, right = max(left, -0.02 * span), min(right, 100 + 0.02 * span)
    return left, right
