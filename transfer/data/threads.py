"""Works on many files, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pretrain.runtime.log import progress

_MANY = 1000  # files from which on there is a progress bar
T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    """Yields `work(item)` of every item in order, computed in threads; shows a progress bar if there are many."""
    with (
        ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
        progress(len(items), what, "files", disable=len(items) < _MANY) as bar,
    ):
        for result in pool.map(work, items):
            yield result
            bar.update()
