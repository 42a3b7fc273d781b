"""Switches the cyclic garbage collector off where it would only cost time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Switches the collector off, for code that makes many objects which all stay; can be used as a decorator, too.

    Their number alone makes the collector walk all existing objects again and again. That takes nearly half of the time
    to load COCO's annotations, and walks all of torch's modules for a checkpoint's tensors (docs/performance.md).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
