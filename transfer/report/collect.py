"""Reads what an experiment has on disk, once, into the values of `collected`.

Nothing here runs or repairs anything. A row that is unfinished, or whose trials do not belong together, says so.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.runtime.files import read_record
from pretrain.runtime.log import read_metrics
from pretrain.runtime.result import FILE_NAME, RunResult
from transfer.config.load import digest
from transfer.report.collected import ColumnReport, ExperimentReport, Pretraining, RowReport
from transfer.trials.aggregate import Aggregate, AggregateError, aggregate
from transfer.trials.failure import read_failure
from transfer.trials.output_folders import TRUNK
from transfer.trials.plan import Plan
from transfer.trials.recorded import read_row, recorded
from transfer.trials.rows import Column, Job, Row
from transfer.trials.run import AGGREGATE_FILE, trial_folder

logger = logging.getLogger(__name__)


def collect(plan: Plan) -> ExperimentReport:
    """Reads the experiment's output folder.

    Raises:
        ConfigError: the config of a row cannot be read (a missing or broken folder of a row raises nothing).
    """
    e = plan.experiment
    sidecars = {path.parent.name: path for path in sorted((e.output / "converted").glob(f"*/{TRUNK}.json"))}
    wanted = {plan.trunk_name(row) for row in e.rows if row.pretrain or row.file}
    whole = replace(plan, rows=())
    report = ExperimentReport(
        title=e.title,
        columns=tuple(collect_column(plan, column) for column in e.columns),
        pretrainings=tuple(_pretraining(whole, name) for name in e.pretrain),
        findings=e.findings,
        conversions={name: _facts(path) for name, path in sidecars.items() if name in wanted},
        command=_command(plan),
    )
    if any(row.results and row.protocol is None for _, _, row in report.cells()):
        logger.warning("some results do not name the protocol that scored them (an earlier version's), so that they "
                       "are not judged against published numbers")  # fmt: skip
    return report


def _facts(path: Path) -> dict[str, Any]:
    """Returns what the converter wrote beside a trunk; if that cannot be read, logs a warning and returns nothing."""
    try:
        found = json.loads(read_record(path))
        if isinstance(found, dict):
            return found
        why = "no object with keys"
    except (OSError, ValueError, RecursionError) as error:
        why = str(error)
    logger.warning("'%s' is not what the converter wrote (%s); convert again", path, why)
    return {}


def collect_column(plan: Plan, column: Column) -> ColumnReport:
    """Reads what one column has on disk; raises what `collect` raises."""
    return ColumnReport(
        name=column.name,
        slug=column.slug,
        source=column.source,
        engine=plan.runner(column),
        metrics=column.metrics,
        seeds=tuple(column.seeds),
        rows=tuple(_row(plan, column, row) for row in plan.experiment.rows),
    )


def _command(plan: Plan) -> str:
    e = plan.experiment
    words = ["python", "tools/reproduce.py", str(e.path), "--output-dir", str(e.output), "--engine", plan.engine.name]
    if len(trials := {column.trials for column in e.columns}) == 1:
        words += ["--trials", str(trials.pop())]
    if plan.num_gpus != 1:
        words += ["--num-gpus", str(plan.num_gpus)]
    if plan.auto_scale is not None:
        words += ["--auto-scale", str(plan.auto_scale)]
    return shlex.join(words)


def _row(plan: Plan, column: Column, row: Row) -> RowReport:
    entry = row.entry(column)
    if entry.run is None:
        return RowReport(row.name, row.slug, "published only", (), published=entry.published)
    folder, seeds = plan.row_folder(column, row), tuple(column.seeds)
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
            results.append(result if column.probe is None else _probed(plan, column, row, seed, result))
        except ValueError as error:
            problems.append(str(error))
    mean = None if failed else _aggregate(plan, column, row, results, problems)
    problems += _earlier_failures(plan, column, row)
    problems += _differences(plan, row.job(column), results)
    weights = f"pre-training '{row.pretrain}'" if row.pretrain else row.file.name if row.file else "random"
    return RowReport(
        name=row.name,
        slug=row.slug,
        weights=weights,
        seeds=seeds,
        results=tuple(results),
        aggregate=mean,
        published=entry.published,
        problems=tuple(problems),
        curves={s: c for s in seeds if (c := read_metrics(trial_folder(folder, s) / "metrics.jsonl"))},
        started=tuple(started),
        pretrain=row.pretrain,
        folder=folder,
        failed=failed,
        job=row.job(column),
    )


def _earlier_failures(plan: Plan, column: Column, row: Row) -> list[str]:
    """Returns what went wrong before the row's trials, in its pre-training or the conversion of its weights."""
    folders = {plan.converted(plan.trunk_name(row)): "conversion"} if column.probe is None else {}
    if row.pretrain is not None:
        seeds: list[int | None] = [*column.seeds] if column.anew else [None]
        for seed in seeds:
            which = f"pre-training '{row.pretrain}'" + ("" if seed is None else f", seed {seed},")
            folders[plan.pretrain_folder(row.pretrain, seed)] = which
    return [f"{what} failed: {why}" for path, what in folders.items() if (why := read_failure(path)) is not None]


def _probed(plan: Plan, column: Column, row: Row, seed: int, result: RunResult) -> RunResult:
    """Returns a probe's result as one trial of its row, with the pre-training's pretext metrics beside its own.

    Where every seed pre-trains anew, trials of the row no longer share the hash of their weights.
    """
    metrics = {name if "/" in name else f"{result.kind}/{name}": value for name, value in result.metrics.items()}
    if row.pretrain is not None:
        folder = plan.source(column, row, seed).parent
        if (folder / FILE_NAME).is_file():
            pretext = RunResult.load(folder)
            metrics |= {f"pretext/{k}": pretext.metrics[k] for k in ("acc1", "loss") if k in pretext.metrics}
    weights = None if column.anew else result.weights_sha256
    return replace(result, seed=seed, weights_sha256=weights, metrics=metrics)


def _aggregate(
    plan: Plan, column: Column, row: Row, results: Sequence[RunResult], problems: list[str]
) -> Aggregate | None:
    """Returns the row of the results; where some are gone, the one that was recorded when all were there."""
    try:
        if len(results) < len(column.seeds):
            return recorded(plan, column, row, results)
        computed = aggregate(results)
    except AggregateError as error:
        problems.append(str(error))
        return None
    try:
        known = read_row(plan.row_folder(column, row) / AGGREGATE_FILE)
    except AggregateError as error:
        problems.append(str(error))
        return computed
    if known is not None and replace(known, metrics=computed.metrics) == computed != known:
        problems.append(f"'{AGGREGATE_FILE}' disagrees with the trials' results; the numbers here are of the results")
    return computed


def _differences(plan: Plan, job: Job | None, results: Sequence[RunResult]) -> list[str]:
    """Returns how the results differ from what the experiment file says now; a probe's stages record that already."""
    if job is None:
        return []
    now, then = digest(plan.config(job.config, job.opts)), sorted({r.config_digest for r in results})
    found = []
    if then and then != [now]:
        found.append(f"made with config digest {', '.join(then)}, while the experiment file now gives {now}")
    if engines := sorted({r.engine for r in results} - {plan.engine.name}):
        found.append(f"made with engine {', '.join(engines)}, not {plan.engine.name}")
    return found


def _pretraining(plan: Plan, name: str) -> Pretraining:
    """Returns the pre-training that columns share, or the first that trials made anew."""
    folder = plan.pretrain_folder(name, next(iter(plan.pretraining_seeds(name)), None))
    try:
        result = RunResult.load(folder)
    except FileNotFoundError:
        result = None
    except ValueError as error:
        logger.warning("%s", error)
        result = None
    return Pretraining(name, read_metrics(folder / "metrics.jsonl"), result)
