"""Computes mean and spread over trials, by pure functions of results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.result import RunResult

_COMPARED = {"config", "weights"}  # inputs with a field of their own; where seeds pre-train anew, weights may differ


class AggregateError(ExpectedError, ValueError):
    """Says that results must not be averaged together."""


@dataclass(frozen=True)
class Statistic:
    """Holds a metric over n trials: mean, sample standard deviation (n - 1; None for one trial), range, all values."""

    mean: float
    std: float | None
    n: int
    low: float
    high: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        """Returns `81.5 ± 0.2`, or `81.5` for one trial."""
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


def statistic(values: Sequence[float], name: str = "a metric") -> Statistic:
    """Computes the statistic of a metric's values.

    Raises:
        AggregateError: there are no values, or one is not a number (a failed trial is never averaged away).
    """
    if not values:
        raise AggregateError("no trial to aggregate")
    if any(not math.isfinite(v) for v in values):
        shown = ", ".join(f"{v:.4g}" for v in values)
        raise AggregateError(
            f"{name} is not a number in every trial ({shown}); delete the folders of those and run again"
        )
    std = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(statistics.fmean(values), std, len(values), min(values), max(values), tuple(values))


@dataclass(frozen=True)
class Aggregate:
    """Holds a row of a table: what its trials share, and one statistic per metric."""

    engine: str
    config_digest: str
    weights_sha256: str | None
    seeds: tuple[int, ...]
    metrics: Mapping[str, Statistic]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Aggregate:
        metrics = {
            name: Statistic(**{**values, "values": tuple(values["values"])}) for name, values in data["metrics"].items()
        }
        return cls(**{**data, "seeds": tuple(data["seeds"]), "metrics": metrics})


def aggregate(results: Sequence[RunResult]) -> Aggregate:
    """Makes a table's row of the results of its trials.

    Raises:
        AggregateError: engines, config digests, initial weights or data sets differ, a seed comes twice, or a trial
            lacks a metric that others have.
    """
    if not results:
        raise AggregateError("no trial to aggregate")
    first = results[0]
    for what in ("engine", "config_digest", "weights_sha256"):
        found = {getattr(r, what) for r in results}
        if len(found) > 1:
            raise AggregateError(
                f"trials differ in {what} ({', '.join(map(str, sorted(map(str, found))))}); a row never mixes them"
            )
    for name in sorted({name for r in results for name in r.inputs} - _COMPARED):
        found = {r.inputs[name] for r in results if name in r.inputs}  # earlier versions' results do not say
        if len(found) > 1:
            raise AggregateError(f"trials differ in what they read as '{name}' (digests {', '.join(sorted(found))}); "
                                 "a row never mixes them")  # fmt: skip
    seeds = [r.seed for r in results]
    if len(set(seeds)) < len(seeds):
        raise AggregateError(f"a seed comes twice among {seeds}; trials must be independent")
    for r in results:
        if lacking := sorted({name for other in results for name in other.metrics} - r.metrics.keys()):
            raise AggregateError(f"seed {r.seed} lacks {', '.join(lacking)}, which others have; evaluate it again")
    finite = [name for name in first.metrics if any(math.isfinite(r.metrics[name]) for r in results)]
    metrics = {name: statistic([r.metrics[name] for r in results], name) for name in finite}
    return Aggregate(first.engine, first.config_digest, first.weights_sha256, tuple(seeds), metrics)
