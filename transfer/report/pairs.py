"""Finds what two experiments have in common, and checks that its numbers may be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pretrain.runtime.config import ConfigError
from transfer.evaluation.metric import Metric
from transfer.report.collected import ColumnReport, RowReport
from transfer.trials.aggregate import Statistic
from transfer.trials.plan import Plan
from transfer.trials.rows import Column
from transfer.trials.significance import Comparison, welch

LETTERS = ("A", "B")  # what a comparison calls its sides: titles and folders are too long for the head of a table


@dataclass(frozen=True)
class Both:
    """Holds one row in one metric for both sides, as means over all trials.

    Attributes:
        colour: number of the row on the first side.
    """

    name: str
    colour: int
    metric: Metric
    first: Statistic
    second: Statistic

    @property
    def difference(self) -> float:
        """Returns the first side's mean minus the second's, in points."""
        return self.first.mean - self.second.mean

    @property
    def test(self) -> Comparison | None:
        """Returns Welch's test of the difference; None unless both sides have two trials or more."""
        return welch(self.first, self.second)


@dataclass(frozen=True)
class Pair:
    """Holds a column of both experiments. `metrics` are those that both show."""

    first: ColumnReport
    second: ColumnReport

    @property
    def metrics(self) -> tuple[Metric, ...]:
        theirs = {m.key for m in self.second.metrics}
        return tuple(m for m in self.first.metrics if m.key in theirs)

    def rows(self) -> Iterator[tuple[int, RowReport, RowReport]]:
        """Yields (number, row, row) of the rows that are run on both sides, by name, in the first side's order."""
        theirs = {row.name: row for row in self.second.run}
        return (
            (i, row, theirs[row.name]) for i, row in enumerate(self.first.rows) if row.is_run and row.name in theirs
        )

    def cells(self) -> list[Both]:
        """Returns the numbers of rows that are complete on both sides, by row, then metric."""
        found = []
        for i, a, b in self.rows():
            for metric in self.metrics:
                ours, theirs = a.statistic(metric.key), b.statistic(metric.key)
                if ours is not None and theirs is not None:
                    found.append(Both(a.name, i, metric, ours, theirs))
        return found

    def left_out(self) -> list[str]:
        """Returns what only one side has, and what is not complete, for people."""
        lines = []
        for letter, mine, other in zip(LETTERS, (self.first, self.second), (self.second, self.first), strict=True):
            for what, names, known in (
                ("row", [r.name for r in mine.run], {r.name for r in other.run}),
                ("metric", [m.label for m in mine.metrics], {m.label for m in other.metrics}),
            ):
                alone = [f"'{name}'" for name in names if name not in known]
                lines += [f"Only in {letter}: {what}{'s' * (len(alone) > 1)} {', '.join(alone)}."] if alone else []
        for _, *sides in self.rows():
            short = [f"{letter} has {r.state}" for letter, r in zip(LETTERS, sides, strict=True) if r.aggregate is None]
            lines += [f"{sides[0].name}: {', '.join(short)}, so it is left out."] if short else []
        return lines


def matched(left: Plan, right: Plan) -> list[tuple[Column, Column]]:
    """Returns the columns that both experiments have, by name; if each has just one column, these two.

    Raises:
        ConfigError: the experiments share no column.
    """
    ours, theirs = left.experiment.columns, right.experiment.columns
    if len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    found = [(a, b) for a in ours for b in theirs if a.name == b.name]
    if not found:
        names = [", ".join(f"'{c.name}'" for c in columns) for columns in (ours, theirs)]
        raise ConfigError(f"the experiments share no column: {names[0]} and {names[1]}")
    return found


def check(pair: Pair) -> None:
    """Refuses to compare numbers that mean different things.

    Raises:
        ConfigError: no row or metric is in both, or a row's metric was scored by different protocols, by one that its
            results do not name, or on different test sets.
    """
    where = pair.first.prefix
    if not pair.metrics:
        shown = [", ".join(m.key for m in side.metrics) for side in (pair.first, pair.second)]
        raise ConfigError(f"{where}the experiments share no metric: {shown[0]} and {shown[1]}; "
                          "name the same ones in `metrics` of both files")  # fmt: skip
    if not any(True for _ in pair.rows()):
        shown = [", ".join(f"'{r.name}'" for r in side.run) or "none" for side in (pair.first, pair.second)]
        raise ConfigError(f"{where}the experiments share no row that is run: {shown[0]} and {shown[1]}; "
                          "rows are matched by name")  # fmt: skip
    for _, a, b in pair.rows():
        for metric in pair.metrics if a.results and b.results else ():
            if metric.key in a.results[0].metrics and metric.key in b.results[0].metrics:
                _check_alike(f"{where}row '{a.name}', {metric.label}", a, b, metric.key)


def _check_alike(what: str, a: RowReport, b: RowReport, key: str) -> None:
    protocols = [row.scored_by(key) for row in (a, b)]
    for letter, protocol in zip(LETTERS, protocols, strict=True):
        if protocol is None:
            raise ConfigError(f"{what}: the results of {letter} do not name the protocol that scored them (an earlier "
                              "version's); run those trials again to compare them")  # fmt: skip
    names = [protocol.name for protocol in protocols if protocol is not None]
    if names[0] != names[1]:
        raise ConfigError(f"{what}: A is scored by the protocol {names[0]}, B by {names[1]}; "
                          "evaluate both on data sets of one protocol to compare them")  # fmt: skip
    (set_a, digests_a), (set_b, digests_b) = (_test_set(row, key) for row in (a, b))
    if digests_a and digests_b and digests_a != digests_b:
        shown = " and ".join(", ".join(sorted(d)) for d in (digests_a, digests_b))
        raise ConfigError(f"{what}: A is of the test set '{set_a}', B of '{set_b}', which differ (digests {shown}); "
                          "evaluate both on one test set to compare them")  # fmt: skip
    if not (digests_a and digests_b) and set_a != set_b:
        raise ConfigError(f"{what}: A is of the test set '{set_a}', B of '{set_b}'; "
                          "evaluate both on one test set to compare them")  # fmt: skip


def _test_set(row: RowReport, key: str) -> tuple[str, set[str]]:
    """Returns the name of the test set behind a metric, and the digests of it that the trials recorded."""
    names = list(dict.fromkeys(name for name, details in row.details if "protocol" in details))
    name = next((n for n in names if key.startswith(f"{n}/")), names[0] if names else "val")
    kept = [r.inputs.get(f"data set {name}" if names else name) for r in row.results]
    return name, {digest for digest in kept if digest is not None}


def problems(pairs: Sequence[Pair]) -> list[str]:
    """Returns why rows of either side cannot be trusted."""
    sides = [(letter, c) for p in pairs for letter, c in zip(LETTERS, (p.first, p.second), strict=True)]
    return [f"{letter}: {c.prefix}{row.name}: {why}" for letter, c in sides for row in c.run for why in row.problems]
