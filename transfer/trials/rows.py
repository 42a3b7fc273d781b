"""Holds a table as values: rows, columns, what each row has in each column, and what is pre-trained for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pretrain.runtime.slug import slug
from transfer.evaluation.metric import Metric


@dataclass(frozen=True)
class Cost:
    """Holds the GPU-hours that one run of something takes, and their source."""

    gpu_hours: float
    source: str

    def __str__(self) -> str:
        return f"{self.gpu_hours:,.0f} GPU-hours ({self.source})"


@dataclass(frozen=True)
class Job:
    """Holds a config with options that is pre-trained or fine-tuned. `cost` is the published cost of one run."""

    config: Path
    opts: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True)
class Probe:
    """Evaluates a trunk by classification: knn takes options of tools/knn_eval.py, other protocols a config's keys.

    Attributes:
        config: config file of the protocols linear and finetune; None for knn.
    """

    protocol: str
    opts: tuple[str, ...]
    config: Path | None = None


Published = float | Literal["fail"]
PROBES: Mapping[str, str] = {
    "knn": "knn of frozen features",
    "linear": "linear of frozen features",
    "finetune": "finetune of trunk and classifier",
}
"""Protocols of classification, and what people call what evaluates by them."""


@dataclass(frozen=True)
class Column:
    """Describes one way to evaluate the rows.

    Attributes:
        name: name in the file; empty in the form without `columns`, whose one column has no name.
        probe: a protocol of `PROBES`; None if rows are fine-tuned to another task.
        anew: whether every seed of a probe pre-trains anew.
    """

    name: str
    trials: int
    metrics: tuple[Metric, ...]
    source: str = ""
    probe: str | None = None
    anew: bool = False

    @property
    def slug(self) -> str:
        return slug(self.name) if self.name else ""

    @property
    def needs_weights(self) -> bool:
        """Returns whether a trunk with random weights makes no sense here, because it would stay as it is."""
        return self.probe in ("knn", "linear")

    @property
    def seeds(self) -> range:
        return range(1, self.trials + 1)

    @property
    def prefix(self) -> str:
        """Returns the words that come before a sentence about this column."""
        return f"{self.name}: " if self.name else ""


@dataclass(frozen=True)
class Entry:
    """Holds what one row has in one column.

    Attributes:
        run: what is fine-tuned or probed; None where the row is published only.
        published: metric key -> number in points, or "fail".
    """

    run: Job | Probe | None = None
    published: Mapping[str, Published] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Describes a row of the table. At most one of `pretrain` and `file` is set; neither means random initialisation.

    Attributes:
        entries: column name -> what the row has there; columns without an entry are left out.
        pretrain: name of the experiment's pre-training whose trunk initialises this row.
        file: a checkpoint on disk, converted if it is not in Detectron2's form.
        get: where to get `file`, for people.
        sha256: SHA-256 of `file` in lower-case hex, all 64 digits or at least the first 8; empty if it is not known.
        cost: cost of making `file` again.
    """

    name: str
    entries: Mapping[str, Entry]
    pretrain: str | None = None
    file: Path | None = None
    get: str = ""
    cost: Cost | None = None
    sha256: str = ""

    @property
    def slug(self) -> str:
        """Returns the row's folder name."""
        return slug(self.name)

    def entry(self, column: Column) -> Entry:
        return self.entries.get(column.name, Entry())

    def job(self, column: Column) -> Job | None:
        """Returns what is fine-tuned in the column, or None."""
        run = self.entry(column).run
        return run if isinstance(run, Job) else None


@dataclass(frozen=True)
class Finding:
    """Holds a paper's qualitative result as a comparison of two rows, in one column or in two.

    Attributes:
        claim: the result in words.
        source: the paper that states it.
        column, row: column and name of the row that should be above.
        than_column, than: column and name of the row that should be beneath it, mostly in the same column.
        metric: the metric in which `row` should be above `than`.
        unless: the most likely reason if the result does not show, and what would decide it; empty if none is known.
    """

    claim: str
    source: str
    column: Column
    row: str
    than_column: Column
    than: str
    metric: Metric
    unless: str = ""


@dataclass(frozen=True)
class Experiment:
    """Holds what an experiment file says; see `experiment`.

    Attributes:
        remark: what a reader of the findings must know beside them; may be empty.
    """

    path: Path
    title: str
    output: Path
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    pretrain: Mapping[str, Job]
    generated: Mapping[str, Any] | None
    findings: tuple[Finding, ...] = ()
    remark: str = ""

    def runs(self) -> Iterator[tuple[Column, Row]]:
        """Yields every cell that is run, by column, then row."""
        return ((c, row) for c in self.columns for row in self.rows if row.entry(c).run is not None)
