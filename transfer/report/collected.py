"""Holds what an experiment has on disk as plain values; tables, figures and sections are functions of these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.result import RunResult
from transfer.evaluation.metric import Metric
from transfer.evaluation.protocols import PROTOCOLS, Protocol
from transfer.trials.aggregate import Aggregate, Statistic
from transfer.trials.rows import PROBES, Finding, Job, Published

Curve = Sequence[Mapping[str, Any]]
"""Lines of a `metrics.jsonl`: {"iteration": i, name: value or None, ...}."""


@dataclass(frozen=True)
class RowReport:
    """Holds a row of one column as it is on disk.

    Attributes:
        name, slug: the row's name and folder name in the experiment.
        weights: what initialises the row, for people.
        pretrain: name of the experiment's pre-training behind it, if any.
        seeds: one seed per trial, finished or not; empty for a row that is not run in this column.
        job: what is fine-tuned; None for a probe, and for a row that is not run.
        results: the finished trials, in the order of their seeds.
        started: seeds of trials that have begun and are neither finished nor failed.
        failed: seed -> why that trial failed. A row with a failed trial is never averaged.
        aggregate: mean and spread; None unless all trials are finished and belong together.
        published: metric key -> published number in points, or "fail".
        problems: why the row cannot be trusted or averaged, beside missing trials.
        curves: seed -> fine-tuning curve.
        folder: folder of the row's trials.
    """

    name: str
    slug: str
    weights: str
    seeds: tuple[int, ...]
    results: tuple[RunResult, ...] = ()
    aggregate: Aggregate | None = None
    published: Mapping[str, Published] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    curves: Mapping[int, Curve] = field(default_factory=dict)
    started: tuple[int, ...] = ()
    pretrain: str | None = None
    folder: Path = Path()
    failed: Mapping[int, str] = field(default_factory=dict)
    job: Job | None = None

    @property
    def is_run(self) -> bool:
        return bool(self.seeds)

    @property
    def state(self) -> str:
        """Returns `5 trials`, or how many are there, as in `3 of 5 trials, 1 failed, 1 more started`."""
        n = len(self.seeds)
        if not self.is_run:
            return "published only" if self.published else ""
        if self.aggregate is not None:
            return _trials(self.aggregate.seeds)
        more = f", {len(self.failed)} failed" if self.failed else ""
        more += f", {len(self.started)} more started" if self.started else ""
        return f"{len(self.results)} of {_trials(self.seeds)}{more}" if len(self.results) < n else "not averaged"

    def statistic(self, key: str) -> Statistic | None:
        """Returns mean and spread of the metric with that key."""
        return None if self.aggregate is None else self.aggregate.metrics.get(key)

    def values(self, key: str) -> tuple[float, ...]:
        """Returns the numbers of the trials; in an unfinished row, of those that are finished."""
        if (found := self.statistic(key)) is not None:
            return found.values
        return tuple(v for r in self.results if math.isfinite(v := r.metrics.get(key, math.nan)))

    @property
    def details(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Returns (test set, the protocol's details beside the metrics) for every finished trial."""
        return [(name, d) for r in self.results for name, d in r.extra.items() if isinstance(d, Mapping)]

    @property
    def protocol(self) -> Protocol | None:
        """Returns how the first test set was scored; None if no trial is finished or the results do not say."""
        named = [str(d["protocol"]) for _, d in self.details if "protocol" in d] or [r.kind for r in self.results]
        return PROTOCOLS.get(named[0]) if named else None

    def scored(self, key: str) -> Metric | None:
        """Returns a metric, perhaps of one test set of several, as described by the protocol that scored it."""
        protocol, short = self._scoring(key)
        return None if protocol is None else protocol.metric(short)

    def scored_by(self, key: str) -> Protocol | None:
        """Returns the protocol behind a metric, perhaps of one test set of several; None if results do not say."""
        return self._scoring(key)[0]

    def _scoring(self, key: str) -> tuple[Protocol | None, str]:
        """Returns the protocol behind a metric, and the metric's name in that protocol."""
        for name, details in self.details:
            if key.startswith(f"{name}/"):
                return PROTOCOLS.get(str(details.get("protocol"))), key.removeprefix(f"{name}/")
        return self.protocol, key

    def undefined(self, key: str) -> str:
        """Returns why a metric is undefined in all trials, if the results say so."""
        said = [(d.get("undefined") or {}, key.removeprefix(f"{name}/")) for name, d in self.details]
        return next((str(reasons[k]) for reasons, short in said for k in (key, short) if k in reasons), "")


@dataclass(frozen=True)
class Pretraining:
    """Holds one of the experiment's pre-trainings: its curve, and its result once it is finished."""

    name: str
    curve: Curve
    result: RunResult | None


@dataclass(frozen=True)
class ColumnReport:
    """Holds one column, from which every section about trials is made.

    Attributes:
        name, slug: empty if the table has only one column.
        engine: what evaluated the rows: an engine's name, or a probe's protocol.
        rows: all rows of the table in its order, so that a row has the same number and colour in all columns; a row
            that is not run here has no seeds.
    """

    name: str
    slug: str
    source: str
    engine: str
    metrics: tuple[Metric, ...]
    seeds: tuple[int, ...]
    rows: tuple[RowReport, ...]

    @property
    def baseline(self) -> RowReport:
        """Returns the row to compare with, the first one run that is called supervised, else the first one run."""
        run = [row for row in self.rows if row.is_run] or list(self.rows)
        return next((row for row in run if "supervised" in row.name.lower()), run[0])

    @property
    def runner(self) -> str:
        """Returns what evaluated the rows, for people."""
        return PROBES.get(self.engine, f"{self.engine} engine")

    @property
    def prefix(self) -> str:
        """Returns the words that come before a sentence about this column."""
        return f"{self.name}: " if self.name else ""

    @property
    def run(self) -> tuple[RowReport, ...]:
        """Returns the rows that are run here."""
        return tuple(row for row in self.rows if row.is_run)

    @property
    def has_published(self) -> bool:
        return any(row.published for row in self.rows)

    @property
    def unfinished(self) -> tuple[RowReport, ...]:
        return tuple(row for row in self.run if row.aggregate is None)


@dataclass(frozen=True)
class ExperimentReport:
    """Holds all that a report says. `conversions` maps a name to what the converter wrote beside the weights."""

    title: str
    columns: tuple[ColumnReport, ...]
    pretrainings: tuple[Pretraining, ...] = ()
    findings: tuple[Finding, ...] = ()
    conversions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    command: str = ""

    @property
    def rows(self) -> tuple[RowReport, ...]:
        """Returns the table's rows, for their names and colours."""
        return self.columns[0].rows

    def cells(self) -> Iterator[tuple[ColumnReport, int, RowReport]]:
        """Yields (column, number of the row, row) of everything that is run."""
        return ((c, i, row) for c in self.columns for i, row in enumerate(c.rows) if row.is_run)


def _trials(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} trial{'s' * (len(seeds) != 1)}"
