"""What loaders' worker processes are told, seen from within one."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from pretrain.runtime.preempt import STOP_SIGNALS
from pretrain.runtime.workers import start_worker


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

    watched = len(gc.get_objects())
    frozen, ignored = first(DataLoader(Worker(), num_workers=1, collate_fn=list, worker_init_fn=start_worker))
    assert frozen >= watched // 2 and all(ignored) and len(ignored) >= 2
    assert gc.get_freeze_count() == 0  # in the parent
