"""How long an experiment still takes on this machine, by what its finished stages have taken."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.result import FILE_NAME, ResultError, RunResult
from transfer.trials.stages import Stage


@dataclass(frozen=True)
class Remaining:
    """What is left of an experiment.

    Attributes:
        stages: how many are not done.
        seconds: what those take one after the other of which others alike are done.
        unknown: how many are not done of which none alike is.
    """

    stages: int
    seconds: float
    unknown: int

    def __str__(self) -> str:
        if not self.stages:
            return "nothing is left"
        known, each = self.stages - self.unknown, "stage" if self.stages == 1 else "stages"
        if not known:
            return f"{self.stages} {each} left; none alike has finished, by which to say how long that takes"
        hours, minutes = divmod(round(self.seconds / 60), 60)
        took = f"about {hours} h {minutes:02d} min" if hours else f"about {max(minutes, 1)} min"
        beside = f", and {self.unknown} of which none alike has finished" if self.unknown else ""
        return f"{self.stages} {each} left, {took} one after the other by what finished ones took{beside}"


def remaining(stages: Sequence[Stage]) -> Remaining:
    """Looks at what lies in the folders of all stages of a plan; conversions and data take no time worth counting."""
    took: dict[Path, list[float]] = {}
    left = []
    for stage in stages:
        if not all((stage.folder / name).is_file() for name in stage.outputs):
            left.append(stage)
        elif (seconds := _seconds(stage)) is not None:
            took.setdefault(_kind(stage), []).append(seconds)
    long = [stage for stage in left if FILE_NAME in stage.outputs]
    known = [statistics.mean(took[_kind(stage)]) for stage in long if _kind(stage) in took]
    return Remaining(len(left), sum(known), len(long) - len(known))


def _kind(stage: Stage) -> Path:
    """What is alike: the trials of one column on one engine (`.../<row>/seed_<n>`), and the pre-trainings."""
    return stage.folder.parent.parent if stage.kind == "trials" else stage.folder.parent


def _seconds(stage: Stage) -> float | None:
    if FILE_NAME not in stage.outputs:
        return None
    try:
        return RunResult.load(stage.folder).seconds
    except (ResultError, OSError):  # its reader says so elsewhere
        return None
