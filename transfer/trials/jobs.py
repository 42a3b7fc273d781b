"""What one job does: the stages of a chain, one after the other. When its node is taken away, it is put back."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.lock import LockError
from transfer.trials.stages import Stage, StageError, StageStopped, stop_running

logger = logging.getLogger(__name__)

GRACE = 240.0  # seconds that a command has for its checkpoint when the job must go


@dataclass(frozen=True)
class Outcome:
    """What became of a stage.

    Attributes:
        state: "done", "failed", "stopped" (run it again to continue), or "blocked" (what it needs was not made).
        error: why it is not done.
    """

    stage: str
    folder: Path
    state: str
    error: str = ""


def run_chain(
    chain: Sequence[Stage], own_session: bool = False, begin: Callable[[Stage], None] | None = None
) -> list[Outcome]:
    """Runs stages in order; after the first that is not done, the others are not tried.

    Args:
        begin: called before each that is tried.
    """
    outcomes: list[Outcome] = []
    for stage in chain:
        if outcomes and outcomes[-1].state != "done":
            outcomes.append(Outcome(stage.name, stage.folder, "blocked", f"{outcomes[-1].stage} is not done"))
            continue
        if gone := [path for path in stage.needs if not path.is_file()]:
            outcomes.append(Outcome(stage.name, stage.folder, "blocked", f"'{gone[0]}' was not made"))
            continue
        if begin is not None:
            begin(stage)
        try:
            stage.run(own_session)
            outcomes.append(Outcome(stage.name, stage.folder, "done"))
        except StageStopped as error:
            outcomes.append(Outcome(stage.name, stage.folder, "stopped", str(error)))
        except (StageError, LockError) as error:
            logger.error("%s", error)
            outcomes.append(Outcome(stage.name, stage.folder, "failed", str(error)))
    return outcomes


class Work:
    """A chain as submitit runs it, in a process of its own.

    A preempted or timed-out job gets submitit's signal: its command is asked to stop, writes its checkpoint, and the
    job is put back into the queue. A command that stops by itself, with exit code 75, has the same effect.
    """

    def __init__(self, chain: Sequence[Stage]):
        self.chain = tuple(chain)

    @property
    def name(self) -> str:
        return ", ".join(stage.name for stage in self.chain)

    def __call__(self) -> list[Outcome]:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s")
        outcomes = run_chain(self.chain, own_session=True)
        if any(outcome.state == "stopped" for outcome in outcomes):
            from submitit import JobEnvironment

            signal.raise_signal(JobEnvironment._usr_sig())  # its handler puts the job back, and does not return
        return outcomes

    def checkpoint(self) -> Any:
        """What submitit calls before it puts the job back; returns what is to be run then."""
        from submitit.helpers import DelayedSubmission

        stop_running(GRACE)
        return DelayedSubmission(self)

    def lost(self, reason: str) -> list[Outcome]:
        """The outcomes of a job that cannot tell them itself."""
        states = ["done" if stage.state() == "done" else "failed" for stage in self.chain]
        return [
            Outcome(stage.name, stage.folder, state, reason if state == "failed" else "")
            for stage, state in zip(self.chain, states, strict=True)
        ]
