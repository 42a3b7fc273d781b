"""Reads the row that an earlier run recorded, if it is the row that the experiment means now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.files import read_record
from pretrain.runtime.provenance import file_sha256
from pretrain.runtime.result import RunResult
from transfer.config.load import digest
from transfer.trials.aggregate import Aggregate, AggregateError
from transfer.trials.plan import Plan
from transfer.trials.rows import Column, Row
from transfer.trials.run import AGGREGATE_FILE


def read_row(path: Path) -> Aggregate | None:
    """Reads a `trials.json`; returns None if there is none.

    Raises:
        AggregateError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return Aggregate.from_json(json.loads(read_record(path)))
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise AggregateError(f"'{path}' cannot be read ({type(error).__name__} {error}); delete it") from error


def recorded(plan: Plan, column: Column, row: Row, results: Sequence[RunResult] = ()) -> Aggregate | None:
    """Returns the row that `trials.json` records, of which the trials' own folders may be gone.

    Args:
        results: those of the row's trials that are here.

    Returns:
        The row, or None if there is none, or if it has other seeds, another engine, config or initial weights than the
        experiment has now, or other numbers than `results`. Weights that are not here are not compared.

    Raises:
        AggregateError: the file cannot be read.
    """
    job = row.job(column)
    found = None if job is None else read_row(plan.row_folder(column, row) / AGGREGATE_FILE)
    if job is None or found is None:
        return None
    fits = (
        (set(found.seeds), found.engine) == (set(column.seeds), plan.engine.name)
        and found.config_digest == digest(plan.config(job.config, job.opts))
        and all(_agrees(found, result) for result in results)
        and _starts_from(plan, row, found.weights_sha256)
    )
    return found if fits else None


def _starts_from(plan: Plan, row: Row, sha256: str | None) -> bool:
    weights = plan.weights(row)
    if weights is None or sha256 is None:
        return weights is None and sha256 is None
    return not weights.is_file() or file_sha256(weights) == sha256


def _agrees(found: Aggregate, result: RunResult) -> bool:
    """Returns whether a trial's result is the one that was recorded."""
    i = found.seeds.index(result.seed)
    own = (result.engine, result.config_digest, result.weights_sha256)
    numbers = all(result.metrics.get(name) == s.values[i] for name, s in found.metrics.items())
    return own == (found.engine, found.config_digest, found.weights_sha256) and numbers
