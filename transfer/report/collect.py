"""What an experiment has on disk, read once into plain values; tables and figures are functions of these.

Nothing here runs or repairs anything. A row that is not finished, or whose trials do not belong together, says so.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain.runtime.log import read_metrics
from pretrain.runtime.result import FILE_NAME, RunResult
from transfer.config.load import digest
from transfer.trials.aggregate import Aggregate, AggregateError, Statistic, aggregate
from transfer.trials.experiment import PROTOCOLS, Row
from transfer.trials.failure import read_failure
from transfer.trials.reproduce import TRUNK, Plan
from transfer.trials.run import AGGREGATE_FILE, trial_folder

logger = logging.getLogger(__name__)

Curve = Sequence[Mapping[str, Any]]
"""Lines of a `metrics.jsonl`: {"iteration": i, name: value or None, ...}."""


_PROBED = {
    "knn/acc1": "kNN top-1",
    "linear/acc1": "linear top-1",
    "linear/acc5": "linear top-5",
    "pretext/acc1": "pretext accuracy",
    "pretext/loss": "pretext loss",
}


def metric_key(name: str) -> str:
    """The name in a result of a metric as experiment files write it: `AP50` is `bbox/AP50`, `segm/AP` is itself."""
    return name if "/" in name else f"bbox/{name}"


def metric_label(name: str) -> str:
    """What a table's head calls a metric: `AP50`, `mask AP`, `keypoint AP`; other names as they are."""
    task, _, rest = metric_key(name).rpartition("/")
    if name in _PROBED:
        return _PROBED[name]
    known = {"bbox": "", "segm": "mask ", "keypoints": "keypoint ", "bbox_unrounded": "unrounded "}
    return known[task] + rest if task in known else name


@dataclass(frozen=True)
class RowReport:
    """A row of the table as it stands on disk.

    Attributes:
        name, slug: as in the experiment file.
        weights: what initialises the row, for people.
        pretrain: name of the experiment's pre-training behind it, if any.
        seeds: one trial each, whether or not it is there.
        results: the finished trials, in the order of their seeds.
        started: seeds of trials that have begun and are neither finished nor failed.
        failed: seed -> why that trial failed. A row with one is never averaged.
        aggregate: mean and spread; None unless every trial is there and they belong together.
        published: `metric_key` -> published number, in points.
        problems: why the row is not to be trusted, or not averaged, beside trials that are missing.
        curves: seed -> fine-tuning curve.
        folder: of the row's trials.
    """

    name: str
    slug: str
    weights: str
    seeds: tuple[int, ...]
    results: tuple[RunResult, ...] = ()
    aggregate: Aggregate | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    curves: Mapping[int, Curve] = field(default_factory=dict)
    started: tuple[int, ...] = ()
    pretrain: str | None = None
    folder: Path = Path()
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`5 trials`, or how many there are of how many: `3 of 5 trials, 1 failed, 1 more started`."""
        n = len(self.seeds)
        if self.aggregate is not None:
            return _trials(self.aggregate.seeds)
        more = f", {len(self.failed)} failed" if self.failed else ""
        more += f", {len(self.started)} more started" if self.started else ""
        return f"{len(self.results)} of {_trials(self.seeds)}{more}" if len(self.results) < n else "not averaged"

    def statistic(self, metric: str) -> Statistic | None:
        return None if self.aggregate is None else self.aggregate.metrics.get(metric_key(metric))

    def values(self, metric: str) -> tuple[float, ...]:
        """The trials' numbers, of an unfinished row those that are there."""
        if (found := self.statistic(metric)) is not None:
            return found.values
        key = metric_key(metric)
        return tuple(v for r in self.results if math.isfinite(v := r.metrics.get(key, math.nan)))

    @property
    def evaluation(self) -> str | None:
        """How the first test set was evaluated: "COCO", "11-point" or "area"; None before a trial is finished."""
        details = [d for r in self.results for d in r.extra.values() if isinstance(d, Mapping) and "metric" in d]
        return str(details[0]["metric"]) if details else None


@dataclass(frozen=True)
class Pretraining:
    """One of the experiment's pre-trainings: its curve, and its result once it is finished."""

    name: str
    curve: Curve
    result: RunResult | None


@dataclass(frozen=True)
class ExperimentReport:
    """All that a report says. `conversions`: name -> the facts that the converter wrote beside the weights."""

    title: str
    source: str
    engine: str
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[RowReport, ...]
    pretrainings: tuple[Pretraining, ...] = ()
    conversions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    command: str = ""

    @property
    def baseline(self) -> RowReport:
        """What rows are compared with: the first one that is called supervised, else the first."""
        return next((row for row in self.rows if "supervised" in row.name.lower()), self.rows[0])

    @property
    def runner(self) -> str:
        """What evaluated the rows, for people."""
        return f"{self.engine} of frozen features" if self.engine in PROTOCOLS else f"{self.engine} engine"

    @property
    def has_published(self) -> bool:
        return any(row.published for row in self.rows)

    @property
    def unfinished(self) -> tuple[RowReport, ...]:
        return tuple(row for row in self.rows if row.aggregate is None)


def collect(plan: Plan) -> ExperimentReport:
    """Reads the experiment's output folder.

    Raises:
        ConfigError: the config of a row cannot be read (a row's folder can be missing or broken without that).
    """
    e = plan.experiment
    words = ["python", "tools/reproduce.py", str(e.path), "--output-dir", str(e.output), "--engine", plan.engine.name]
    words += ["--trials", str(e.trials)]
    if plan.num_gpus != 1:
        words += ["--num-gpus", str(plan.num_gpus)]
    if plan.auto_scale is not None:
        words += ["--auto-scale", str(plan.auto_scale)]
    sidecars = {path.parent.name: path for path in sorted((e.output / "converted").glob(f"*/{TRUNK}.json"))}
    wanted = {row.pretrain or row.slug for row in e.rows}
    first_seed = e.seeds[0] if e.probe is not None else None
    return ExperimentReport(
        title=e.title,
        source=e.source,
        engine=plan.runner,
        metrics=e.metrics,
        seeds=tuple(e.seeds),
        rows=tuple(_row(plan, row) for row in e.rows),
        pretrainings=tuple(_pretraining(plan.pretrain_folder(name, first_seed), name) for name in e.pretrain),
        conversions={name: json.loads(path.read_text()) for name, path in sidecars.items() if name in wanted},
        command=shlex.join(words),
    )


def _row(plan: Plan, row: Row) -> RowReport:
    folder, seeds = plan.row_folder(row), tuple(plan.experiment.seeds)
    problems: list[str] = []
    results, started, failed = [], [], dict[int, str]()
    for seed in seeds:
        trial = trial_folder(folder, seed)
        if (reason := read_failure(trial)) is not None:
            failed[seed] = reason
            problems.append(f"seed {seed} failed: {reason}")
            continue
        if not (trial / FILE_NAME).is_file():
            started += [seed] if (trial / "metrics.jsonl").is_file() else []
            continue
        try:
            result = RunResult.load(trial)
            results.append(result if plan.experiment.probe is None else _probed(plan, row, seed, result))
        except ValueError as error:
            problems.append(str(error))
    mean = None if failed else _aggregate(folder / AGGREGATE_FILE, results, seeds, problems)
    problems += _earlier_failures(plan, row)
    problems += _differences(plan, row, results)
    weights = f"pre-training '{row.pretrain}'" if row.pretrain else row.file.name if row.file else "random"
    return RowReport(
        name=row.name,
        slug=row.slug,
        weights=weights,
        seeds=seeds,
        results=tuple(results),
        aggregate=mean,
        published={metric_key(name): float(value) for name, value in row.published.items()},
        problems=tuple(problems),
        curves={s: c for s in seeds if (c := read_metrics(trial_folder(folder, s) / "metrics.jsonl"))},
        started=tuple(started),
        pretrain=row.pretrain,
        folder=folder,
        failed=failed,
    )


def _earlier_failures(plan: Plan, row: Row) -> list[str]:
    """What went wrong before the row's trials: in its pre-training or the conversion of its weights."""
    folders = {plan.experiment.output / "converted" / (row.pretrain or row.slug): "conversion"}
    if row.pretrain is not None:
        seeds = [None] if plan.experiment.probe is None else plan.experiment.seeds
        for seed in seeds:
            which = f"pre-training '{row.pretrain}'" + ("" if seed is None else f", seed {seed},")
            folders[plan.pretrain_folder(row.pretrain, seed)] = which
    return [f"{what} failed: {why}" for path, what in folders.items() if (why := read_failure(path)) is not None]


def _probed(plan: Plan, row: Row, seed: int, result: RunResult) -> RunResult:
    """A probe's result as one trial of its row: the seed is the pre-training's, whose pretext metrics stand beside.

    Every seed has weights of its own, so their hash is no longer what the trials of the row share.
    """
    metrics = {name if "/" in name else f"{result.kind}/{name}": value for name, value in result.metrics.items()}
    if row.pretrain is not None:
        pretext = RunResult.load(plan.pretrain_folder(row.pretrain, seed))
        metrics |= {f"pretext/{name}": pretext.metrics[name] for name in ("acc1", "loss")}
    return replace(result, seed=seed, weights_sha256=None, metrics=metrics)


def _aggregate(
    path: Path, results: Sequence[RunResult], seeds: tuple[int, ...], problems: list[str]
) -> Aggregate | None:
    """The row that `path` records if it is of these seeds, checked against the results; else that of the results."""
    recorded = None
    if path.is_file():
        try:
            recorded = Aggregate.from_json(json.loads(path.read_text()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"'{path}' cannot be read ({type(error).__name__} {error})")
    if recorded is not None and set(recorded.seeds) != set(seeds):
        recorded = None  # of another number of trials
    if len(results) < len(seeds):
        return recorded
    try:
        computed = aggregate(results)
    except AggregateError as error:
        problems.append(str(error))
        return None
    if recorded is not None and recorded != computed:
        problems.append(f"'{path.name}' disagrees with the trials' results; the numbers here are of the results")
    return computed


def _differences(plan: Plan, row: Row, results: Sequence[RunResult]) -> list[str]:
    """Whether the results are of what the experiment file says now."""
    if plan.experiment.probe is not None:  # their stages record that
        return []
    assert row.job is not None
    cfg = plan.config(row.job.config, row.job.opts)
    now, then = digest(cfg), sorted({r.config_digest for r in results})
    found = []
    if then and then != [now]:
        found.append(f"made with config digest {', '.join(then)}, while the experiment file now gives {now}")
    if engines := sorted({r.engine for r in results} - {plan.engine.name}):
        found.append(f"made with engine {', '.join(engines)}, not {plan.engine.name}")
    return found


def _pretraining(folder: Path, name: str) -> Pretraining:
    try:
        result = RunResult.load(folder)
    except FileNotFoundError:
        result = None
    except ValueError as error:
        logger.warning("%s", error)
        result = None
    return Pretraining(name, read_metrics(folder / "metrics.jsonl"), result)


def _trials(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} trial{'s' * (len(seeds) != 1)}"
