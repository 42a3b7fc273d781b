"""Runs one job, which is the stages of a chain in order; a job whose node is taken away is put back into the queue."""

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
    """Says what became of a stage.

    Attributes:
        state: "done", "failed", "stopped" (run it again to continue), or "blocked" (what it needs was not made).
        error: why the stage is not done.
    """

    stage: str
    folder: Path
    state: str
    error: str = ""


def run_chain(
    chain: Sequence[Stage], own_session: bool = False, begin: Callable[[Stage], None] | None = None
) -> list[Outcome]:
    """Runs stages in order; after the first stage that does not get done, the others are not tried.

    Args:
        begin: called before each stage that is tried.
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
        except (StageError, LockError, OSError) as error:  # OSError: a disk or a folder of this stage
            logger.error("%s", error)
            outcomes.append(Outcome(stage.name, stage.folder, "failed", str(error)))
    return outcomes


class Work:
    """Wraps a chain as submitit runs it, in a process of its own.

    When submitit signals that a job is preempted or timed out, its command is asked to stop and writes its checkpoint,
    and the job is put back into the queue. A command that stops by itself with exit code 75 has the same effect.
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
        """Stops the commands when submitit is about to put the job back; returns what must be run then."""
        from submitit.helpers import DelayedSubmission

        stop_running(GRACE)
        return DelayedSubmission(self)

    def lost(self, reason: str) -> list[Outcome]:
        """Returns the outcomes of a job that cannot report them itself."""
        states = ["done" if stage.is_done() else "failed" for stage in self.chain]
        return [
            Outcome(stage.name, stage.folder, state, reason if state == "failed" else "")
            for stage, state in zip(self.chain, states, strict=True)
        ]
