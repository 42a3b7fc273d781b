"""What loaders' worker processes are told, seen from within one."""

from __future__ import annotations

import gc
import logging
import os
import signal
import warnings
from collections.abc import Iterator

import pytest
from torch.utils.data import DataLoader, Dataset

from pretrain.runtime.preempt import STOP_SIGNALS
from pretrain.runtime.workers import check_workers, loader_processes, start_worker


class Worker(Dataset[tuple[int, list[bool]]]):
    """Says from within a worker how many objects its collector watches, and which signals it ignores."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[int, list[bool]]:
        ignored = [signal.getsignal(number) == signal.SIG_IGN for number in STOP_SIGNALS]
        return gc.get_freeze_count(), ignored


def test_a_worker_leaves_what_it_inherits_alone():
    def first(loader: DataLoader) -> tuple[int, list[bool]]:
        batches: Iterator = iter(loader)
        return next(batches)[0]

    watched, before = len(gc.get_objects()), gc.get_freeze_count()  # Python 3.12 starts with some
    frozen, ignored = first(DataLoader(Worker(), num_workers=1, collate_fn=list, worker_init_fn=start_worker))
    assert frozen >= watched // 2 + before and all(ignored) and len(ignored) >= 2
    assert gc.get_freeze_count() == before  # in the parent


def test_more_workers_than_cores_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """torch warns of every loader, in a page."""
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            check_workers(99)
            DataLoader(Worker(), num_workers=99)
        check_workers(1)
    assert not warned
    (said,) = caplog.messages
    assert said.startswith("99 loader processes share ") and "take fewer workers (DATA.NUM_WORKERS, " in said


def test_all_cores_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [loader_processes(n) for n in (0, 3, -1)] == [0, 3, 8]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loader_processes(-1) == 1
