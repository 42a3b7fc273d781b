"""Estimates how long an experiment still takes on this machine, from the times of its finished stages."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.result import FILE_NAME, ResultError, RunResult
from transfer.trials.stages import Stage


@dataclass(frozen=True)
class Remaining:
    """Holds how much of an experiment remains to be done.

    Attributes:
        stages: number of unfinished stages.
        seconds: time that the `known` ones take one after the other.
        known: number of unfinished stages for which similar ones have finished.
        unknown: number of those for which none has; conversions and data, which take little time, are in neither.
    """

    stages: int
    seconds: float
    known: int
    unknown: int

    def __str__(self) -> str:
        if not self.stages:
            return "nothing is left"
        each = "stage" if self.stages == 1 else "stages"
        if not self.known:
            why = "none alike has finished, by which to say how long that takes" if self.unknown else "no training"
            return f"{self.stages} {each} left; {why}"
        hours, minutes = divmod(round(self.seconds / 60), 60)
        took = f"about {hours} h {minutes:02d} min" if hours else f"about {max(minutes, 1)} min"
        beside = f", and {self.unknown} of which none alike has finished" if self.unknown else ""
        return f"{self.stages} {each} left, {took} one after the other by what finished ones took{beside}"


def remaining(stages: Sequence[Stage], unfinished: Collection[Path] = ()) -> Remaining:
    """Estimates from the folders of all stages of a plan; the time of conversions and data is not worth counting.

    Args:
        unfinished: folders of stages that are to be run although their outputs are there, such as stale ones.
    """
    took: dict[Path, list[float]] = {}
    left = []
    for stage in stages:
        whole = all((stage.folder / name).is_file() for name in stage.outputs)
        if not whole or stage.folder in unfinished:
            left.append(stage)
        if not whole:
            continue
        if (seconds := _seconds(stage)) is not None:
            took.setdefault(_kind(stage), []).append(seconds)
    long = [stage for stage in left if FILE_NAME in stage.outputs]
    known = [statistics.mean(took[_kind(stage)]) for stage in long if _kind(stage) in took]
    return Remaining(len(left), sum(known), len(known), len(long) - len(known))


def _kind(stage: Stage) -> Path:
    """Returns a folder that similar stages share: trials of a column on one engine (`.../<row>/seed_<n>`) or others."""
    return stage.folder.parent.parent if stage.kind == "trials" else stage.folder.parent


def _seconds(stage: Stage) -> float | None:
    if FILE_NAME not in stage.outputs:
        return None
    try:
        return RunResult.load(stage.folder).seconds
    except (ResultError, OSError):  # its reader says so elsewhere
        return None
