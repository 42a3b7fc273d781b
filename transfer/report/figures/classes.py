"""Draws figures of classes: differences between two rows, and precision over recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from transfer.report.figures.labels import LINE, shortened, widest, wrapped
from transfer.report.figures.svg import CARD, FONT, MUTED, STYLE, TEXT, axes, inline, row_colour
from transfer.report.markup import Markup

NAMES = 170  # pixels that the names beside bars may take of a figure's 380


@dataclass(frozen=True)
class Gap:
    """Holds for one class of one row the AP of its mean and of each trial, minus the baseline's mean, in points."""

    name: str
    mean: float
    trials: tuple[float, ...]


def gaps(classes: Sequence[Gap], colours: tuple[int, int], scale: float, alt: str, prefix: str) -> Markup:
    """Draws a bar per class from zero to its difference, with trials as dots and the number at the right.

    Args:
        colours: numbers of the rows that colour a negative and a positive bar.
        scale: largest magnitude in all figures that will be compared.
        prefix: makes ids unique.
    """
    top, bottom, numbers = 2, 30, 44
    pitch = min(max(240 / len(classes), 21), 34)
    shown = [shortened(gap.name, NAMES) for gap in classes]
    names = 18 + widest(shown)
    limit = 1.06 * max(scale, 1.0)
    with matplotlib.rc_context(STYLE):
        figure, ax = axes(380, top + pitch * len(classes) + bottom, names, numbers, top, bottom)
        ax.set_ylim(len(classes) - 0.5, -0.5)
        ax.set_xlim(-limit, limit)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.spines["bottom"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.tick_params(axis="x", length=0, pad=5)
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        ax.axvline(0, color=MUTED, linewidth=1.2, zorder=3)
        for y, (gap, name) in enumerate(zip(classes, shown, strict=True)):
            ink = row_colour(colours[gap.mean >= 0])
            ax.barh(y, gap.mean, height=0.56, color=ink, alpha=0.75, zorder=2)
            if len(gap.trials) > 1:
                ax.plot(gap.trials, [y] * len(gap.trials), "o", color=TEXT, ms=4.2, mec=CARD, mew=0.7, alpha=0.6)
            words = (0, name, "right", -9, TEXT), (1, f"{gap.mean:+.1f}".replace("-", "−"), "right", numbers, MUTED)
            for x, text, side, shift, tone in words:
                ax.annotate(
                    text, (x, y), (shift, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", ha=side,
                    va="center", color=tone, parse_math=False, annotation_clip=False, gid=f"name{y}-{x}",
                )  # fmt: skip
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:+g}".replace("-", "−") if v else "0")
        cut = {f"name{y}-0": gap.name for y, gap in enumerate(classes) if gap.name != shown[y]}
        return inline(figure, alt, prefix, cut)


@dataclass(frozen=True)
class Cloud:
    """Holds one row's classes as name -> (the baseline's AP, the row's AP) in percent, means over trials."""

    colour: int
    points: Mapping[str, tuple[float, float]]


def scatter(clouds: Sequence[Cloud], labels: tuple[str, str], alt: str, prefix: str) -> Markup:
    """Draws a dot per class, the baseline's AP across and the row's AP up, and the line of equal AP.

    If there is only one row, its outermost classes are named.

    Args:
        labels: labels of the two axes.
    """
    highest = max(v for cloud in clouds for point in cloud.points.values() for v in point)
    end = min(100.0, 1.08 * max(highest, 5.0))
    with matplotlib.rc_context(STYLE):
        lines = wrapped(labels[0], 328)
        figure, ax = axes(380, 270 + LINE * (len(lines) - 1), 40, 12, 8, 40 + LINE * (len(lines) - 1))
        ax.plot((0, end), (0, end), color=MUTED, linewidth=1.0, zorder=1)
        for cloud in clouds:
            ink = row_colour(cloud.colour)
            x, y = zip(*cloud.points.values(), strict=True)
            ax.plot(x, y, "o", color=ink, ms=6.5, mec=CARD, mew=0.8, alpha=0.85, zorder=3)
        cut: dict[str, str] = {}
        for n, (whole, (a, b)) in enumerate(_farthest(clouds)):
            name = shortened(whole, 170)
            cut |= {f"class{n}": whole} if name != whole else {}
            side, shift = ("left", 7) if a < 0.7 * end else ("right", -7)
            ax.annotate(
                name, (a, b), (shift, 0), textcoords="offset points", ha=side, va="center", color=MUTED, size=10,
                parse_math=False, bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.8}, zorder=2, gid=f"class{n}",
            )  # fmt: skip
        ax.set(xlim=(0, end), ylim=(0, end))
        for axis, words in zip((ax.xaxis, ax.yaxis), ("\n".join(lines), labels[1]), strict=True):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_label_text(words)
            axis.labelpad = 6
        ax.tick_params(length=0, pad=5)
        ax.spines["left"].set_visible(False)
        ax.grid()
        ax.set_axisbelow(True)
        return inline(figure, alt, prefix, cut)


def _farthest(clouds: Sequence[Cloud]) -> list[tuple[str, tuple[float, float]]]:
    """Returns the classes farthest above and beneath the line, if the figure has only one row."""
    if len(clouds) != 1:
        return []
    points = sorted(clouds[0].points.items(), key=lambda item: item[1][1] - item[1][0])
    return points if len(points) <= 4 else [*points[:2], *points[-2:]]


@dataclass(frozen=True)
class PRLine:
    """Holds one row's precision, (101,) in [0, 1], at the recalls 0, .01, ..., 1."""

    colour: int
    precision: np.ndarray


def precision_recall_chart(lines: Sequence[PRLine], alt: str, prefix: str, small: bool = False) -> Markup:
    """Draws precision over recall, both from 0 to 1, with a line per row; `small` leaves out the axes' names."""
    size = (150, 128, 24, 6, 6, 20) if small else (340, 300, 40, 12, 8, 40)
    with matplotlib.rc_context(STYLE):
        figure, ax = axes(*size)
        for line in lines:
            recall = np.linspace(0, 1, len(line.precision))
            ax.plot(recall, line.precision, color=row_colour(line.colour), linewidth=1.3 if small else 1.8, alpha=0.9)
        ax.set(xlim=(0, 1), ylim=(0, 1.02))
        ticks = (0, 0.5, 1) if small else (0, 0.25, 0.5, 0.75, 1)
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        if not small:
            ax.set_xlabel("recall", labelpad=6)
            ax.set_ylabel("precision", labelpad=6)
        ax.tick_params(length=0, pad=4, labelsize=9.5 if small else FONT)
        ax.spines["left"].set_visible(False)
        ax.grid()
        ax.set_axisbelow(True)
        return inline(figure, alt, prefix)
