"""Handles a request to stop: the run finishes the iteration, saves, and leaves with a status that says "again".

SIGTERM is what Slurm, Kubernetes and torchrun send before they kill; SIGUSR1 is what `sbatch --signal=USR1@300` sends;
SIGINT is Ctrl-C, which a terminal sends to every process of a run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import FrameType, TracebackType

from pretrain.runtime import dist
from pretrain.runtime.commands import REQUEUE_STATUS as REQUEUE_STATUS
from pretrain.runtime.errors import Preempted as Preempted

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Notes a stop signal inside the context instead of letting it kill the process; only a second Ctrl-C interrupts.

    Python delivers signals to the main thread only; in another thread this notes nothing and changes nothing.

    Attributes:
        received: name of the first signal, e.g. "SIGTERM"; "" as long as there was none.
    """

    def __init__(self) -> None:
        self.received = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def anywhere(self) -> str:
        """Returns the signal that some process of the group has received, "" if none has; every process must call."""
        return max(dist.gather_objects(self.received))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == "SIGINT":
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class PassedOn(StopRequest):
    """A stop request for a process that only waits for its children: it passes the signal on to them."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)  # the terminal sent SIGINT
