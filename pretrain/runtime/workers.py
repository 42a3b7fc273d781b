"""Prepares a loader's worker processes, and checks that the machine can run them."""

from __future__ import annotations

import gc
import inspect
import logging
import multiprocessing
import os
import resource
import signal
import threading
import warnings
from functools import lru_cache
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils import signal_handling

from pretrain.runtime.machine import FEWER, NO_FILES, NOT_SHARED, MachineError
from pretrain.runtime.preempt import STOP_SIGNALS

LOG = logging.getLogger(__name__)


def start_worker(worker: int) -> None:
    """Prepares a worker, as the `worker_init_fn` of a DataLoader.

    Workers ignore stop signals, which reach them too, because the training process still needs their batches. The
    objects that a worker inherits never die in it: a collector that walked them would copy the memory that they share
    with the parent.
    """
    _end_when_a_batch_is_lost()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()


def _end_when_a_batch_is_lost() -> None:
    """Ends a worker that lacks the shared memory to hand over a batch: its trainer would otherwise wait for ever."""
    queue: Any = Queue
    usual = queue._on_queue_feeder_error

    def lost(error: Exception, batch: object) -> None:
        if get_worker_info() is None:  # a queue of something else
            usual(error, batch)
        else:
            os._exit(1)

    if usual.__qualname__ != lost.__qualname__:
        queue._on_queue_feeder_error = staticmethod(lost)


def _leave_dead_workers_to_the_loader() -> None:
    """Keeps torch from handling SIGCHLD, and removes the handler that an earlier loader of this process has set."""
    signal_handling._SIGCHLD_handler_set = True  # which torch looks at before it sets one
    handler = signal.getsignal(signal.SIGCHLD)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and getattr(handler, "__module__", None) == signal_handling.__name__:
        before = inspect.getclosurevars(handler).nonlocals.get("previous_handler")  # type: ignore[arg-type]
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def loader_processes(asked: int) -> int:
    """Returns `asked`; for -1, this process's share of the machine's cores, at least 1."""
    if asked >= 0:
        return asked
    return max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache  # a run makes several loaders of as many processes
def _say_if_many(count: int, cores: int) -> None:
    """Says in a sentence, once, what torch would say of every loader in a page."""
    if count > cores:
        LOG.info("%d loader processes share %d cores, which may be slower; %s", count, cores, FEWER)


def check_workers(count: int) -> None:
    """Checks that this many worker processes could hand over their batches; torch would fail late, in a page of words.

    More of them than cores are said once, instead of by torch for every loader. It also makes a killed worker end the
    wait for its batch: torch would raise wherever the main process happens to be, in the midst of an optimizer's step
    or of a checkpoint.

    Raises:
        MachineError: there is no shared memory, or too few files may be open: half of the workers would start, and
            never end.
    """
    if not count:
        return
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
    limit, proc = resource.getrlimit(resource.RLIMIT_NOFILE)[0], "/proc/self/fd"
    if limit != resource.RLIM_INFINITY and os.path.isdir(proc) and limit - len(os.listdir(proc)) < 8 * count + 16:
        raise MachineError(f"{NO_FILES} ({limit} may be open, for {count} workers)")
    _end_when_a_batch_is_lost()  # here too: Detectron2's loaders have a start of their own, and are forked
    _leave_dead_workers_to_the_loader()
    try:
        multiprocessing.Lock()
        torch.zeros(1).share_memory_()
    except (OSError, RuntimeError) as error:
        raise MachineError(f"{NOT_SHARED} ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
    _say_if_many(count, _cores())
