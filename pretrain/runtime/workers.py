"""What a loader's worker process must be told when it starts."""

from __future__ import annotations

import gc
import signal

from pretrain.runtime.preempt import STOP_SIGNALS


def start_worker(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`.

    Stop signals reach workers too, but the training process still needs their batches. The objects that a worker
    inherits never die in it: a collector that walked them would copy the memory which they share with the parent.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()
