"""Compares two experiments, or two engines' trials of one, as text, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.config import ConfigError
from transfer.report.collect import collect_column
from transfer.report.collected import ColumnReport, RowReport
from transfer.report.figures.row_plots import Dots, dots, near_enough
from transfer.report.markup import Markup, join, named, prefixed, scroll, section, tag
from transfer.report.page import page
from transfer.report.pairs import LETTERS, Both, Pair, check, matched, problems
from transfer.report.table_files import escaped, line
from transfer.report.tables import MINUS, signed, tested
from transfer.trials.plan import Plan
from transfer.trials.rows import Column
from transfer.trials.significance import interval

HOW = (
    "Mean ± sample std over n trials. Difference: A minus B, with its 95% interval. Different: Welch's t-test at 5%, "
    "each comparison by itself; one trial has no spread to test."
)
_HEADS = ("Initialisation", "Metric", "A", "n", "B", "n", "A minus B", "95% interval", "p (Welch)", "")
_NOTHING = "Nothing to compare yet: no row is complete on both sides."


@dataclass(frozen=True)
class Compared:
    """Holds both experiments.

    Attributes:
        titles: titles of A and of B.
        sides: what else tells them apart.
        same: columns in which both sides have the same folder of results.
    """

    titles: tuple[str, str]
    sides: tuple[str, str]
    pairs: tuple[Pair, ...]
    same: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.titles[0] if self.titles[0] == self.titles[1] else " against ".join(self.titles)

    @property
    def lines(self) -> list[str]:
        """Returns one line for each experiment, with its letter, title, engine, trials and folder."""
        return [f"{x}: {t}, {side}" for x, t, side in zip(LETTERS, self.titles, self.sides, strict=True)]

    @property
    def remarks(self) -> list[str]:
        """Returns what is not compared, and why numbers cannot be trusted."""
        same = [f"{name}: both sides are the same results, so it is left out." for name in self.same]
        return [*(p.first.prefix + words for p in self.pairs for words in p.left_out()), *same, *problems(self.pairs)]


def compare(left: Plan, right: Plan) -> Compared:
    """Reads what both experiments have on disk.

    Raises:
        ConfigError: they have nothing in common, have the same results, or their numbers mean different things (see
            `pairs.check`).
    """
    columns: list[tuple[Column, Column]] = []
    same: list[tuple[Column, Column]] = []
    for a, b in matched(left, right):
        (same if _folders(left, a) & _folders(right, b) else columns).append((a, b))
    if not columns:
        raise ConfigError(f"both sides are the same results, '{left.experiment.output}' of {left.runner(same[0][0])}; "
                          "give a second experiment, two engines or two folders")  # fmt: skip
    found = tuple(Pair(collect_column(left, a), collect_column(right, b)) for a, b in columns)
    for pair in found:
        check(pair)
    sides = _side(left, [p.first for p in found]), _side(right, [p.second for p in found])
    titles = left.experiment.title, right.experiment.title
    return Compared(titles, sides, found, tuple(a.name for a, _ in same))


def _folders(plan: Plan, column: Column) -> set[Path]:
    return {plan.row_folder(c, row).resolve() for c, row in plan.experiment.runs() if c is column}


def _side(plan: Plan, columns: Sequence[ColumnReport]) -> str:
    how = "; ".join(f"{c.prefix}{c.runner}, {len(c.seeds)} trial{'s' * (len(c.seeds) != 1)} per row" for c in columns)
    return f"{how}, in {plan.experiment.output}"


def _words(cell: Both, minus: str = "-") -> list[str]:
    """Returns both means with their trials, then difference, interval, p and verdict."""
    sides = [word for s in (cell.first, cell.second) for word in (str(s), str(s.n))]
    test = cell.test
    if test is None:
        return [*sides, signed(cell.difference, minus), "–", "–", "not tested: one trial"]
    difference, bounds, p, _ = tested(test, minus)
    return [*sides, difference, bounds, p, test.verdict]


def text(found: Compared) -> str:
    """Returns the comparison for the terminal."""
    blocks = ["\n".join([found.title, *found.lines])]
    for pair in found.pairs:
        rows = [[*_HEADS], *([c.name, c.metric.label, *_words(c)] for c in pair.cells())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)).rstrip() for row in rows]
        shown = lines if len(rows) > 1 else [_NOTHING]
        blocks.append("\n".join([pair.first.name, *shown] if pair.first.name else shown))
    return "\n\n".join([*blocks, "\n".join([HOW, *found.remarks])])


def markdown(found: Compared) -> str:
    """Returns the comparison for a README or an issue."""
    lines = [f"**{escaped(found.title)}**", "", *(f"* {escaped(words)}" for words in found.lines)]
    for pair in found.pairs:
        lines += ["", *([f"**{escaped(pair.first.name)}**", ""] if pair.first.name else [])]
        cells = pair.cells()
        heads = [line(_HEADS[0], _HEADS[1:]), "|---|" + "---|" * (len(_HEADS) - 1)] if cells else [_NOTHING]
        lines += [*heads, *(line(escaped(c.name), map(escaped, [c.metric.label, *_words(c)])) for c in cells)]
    return "\n".join([*lines, "", *(f"* {escaped(words)}" for words in (HOW, *found.remarks))]) + "\n"


def html(found: Compared) -> str:
    """Returns the comparison as a self-contained page with every trial of both as dots, and the table."""
    header = [
        tag("p", "Two experiments" if found.titles[0] != found.titles[1] else "One experiment twice", class_="kicker"),
        tag("h1", found.title),
        *(tag("p", words, class_="lede") for words in found.lines),
    ]
    notes = tag("ul", *(tag("li", words) for words in found.remarks))
    main = [tag("div", notes, class_="warning", role="note") if found.remarks else None]
    for n, pair in enumerate(found.pairs):
        for part in _sections(pair):
            main.append(prefixed(part, f"c{n}-") if len(found.pairs) > 1 else part)
    return page(found.title, join(header), join(main, between="\n"))


def _sections(pair: Pair) -> list[Markup]:
    cells = pair.cells()
    if not cells:
        return [tag("p", f"{pair.first.prefix}{_NOTHING}", class_="lede")]
    card = tag("div", table(cells, LETTERS), class_="card")
    numbers = section("numbers", f"{pair.first.prefix}Row by row", tag("p", HOW, class_="lead"), card)
    figures, far = [], False
    for n, metric in enumerate(pair.metrics):
        rows = [
            _dots(i, row, letter, metric.key)
            for i, *sides in pair.rows()
            for letter, row in zip(LETTERS, sides, strict=True)
            if row.values(metric.key)
        ]
        if rows:
            said = "; ".join(f"{r.name} {r.label}" for r in rows)
            chart = dots(rows, f"{metric.label} per trial: {said}.", f"dots{n}")
            figures.append(tag("figure", tag("h3", metric.label), chart, class_="card"))
            far = far or len(near_enough(rows)) < len(rows)
    lead = "Dot: one trial. Upright line: mean; band: ± one sample std; thin line: 95% interval. Scales differ."
    lead += " Triangle: far off the others' scale." * far
    trials = section(
        "trials", f"{pair.first.prefix}Every trial", tag("p", lead, class_="lead"),
        tag("div", *figures, class_="charts"),
    )  # fmt: skip
    return [numbers, trials]


def _dots(colour: int, row: RowReport, letter: str, key: str) -> Dots:
    s = row.statistic(key)
    name = f"{letter}: {row.name}"
    if s is None:
        return Dots(name, colour, row.values(key), None, None, None, row.state.split(", ")[0])
    return Dots(name, colour, s.values, s.mean, s.std, None, str(s), interval(s))


def table(cells: Sequence[Both], names: tuple[str, str]) -> Markup:
    """Returns a line per row and metric: mean, std and trials of both sides, the difference and its test."""
    heads = ("Initialisation", "Metric", *names, "Difference", "95% interval", "p (Welch)", "Hedges' g", "")
    head = [tag("th", word, scope="col", class_="number" if 1 < i < 8 else None) for i, word in enumerate(heads)]
    element = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *map(_line, cells)))
    return scroll(element, " and ".join(names))


def _line(cell: Both) -> Markup:
    sides = [tag("td", str(s), tag("small", f"n = {s.n}"), class_="number") for s in (cell.first, cell.second)]
    test = cell.test
    words = (signed(cell.difference, MINUS), "–", "–", "–") if test is None else tested(test, MINUS)
    verdict = "not tested: one trial" if test is None else test.verdict
    name = tag("th", named(cell.colour, cell.name), scope="row")
    numbers = [tag("td", word, class_="number") for word in words]
    return tag("tr", name, tag("td", cell.metric.label), *sides, *numbers, tag("td", verdict, class_="whole"))


def write_comparison(left: Plan, right: Plan, path: Path) -> str:
    """Writes the page to `path` and the Markdown beside it; returns the text. Raises what `compare` raises."""
    found = compare(left, right)
    for file, content in ((path, html(found)), (path.with_suffix(".md"), markdown(found))):
        with atomic_write(file) as f:
            f.write(content.encode("utf-8"))
    return text(found)
