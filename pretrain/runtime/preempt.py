"""Being asked to stop by a scheduler: note it, finish the iteration, save, and leave with a status that says "again".

SIGTERM is what Slurm, Kubernetes and torchrun send before they kill; SIGUSR1 is what `sbatch --signal=USR1@300` sends.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again


class Preempted(Exception):
    """The run stopped because a signal asked for it; it can be resumed from the checkpoint it has just written."""


class StopRequest:
    """Inside the context, a stop signal is noted instead of killing the process.

    Python delivers signals to the main thread only; in another thread this notes nothing and changes nothing.

    Attributes:
        received: name of the first signal, e.g. "SIGTERM"; "" so far.
    """

    def __init__(self) -> None:
        self.received = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
