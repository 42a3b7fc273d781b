"""The cyclic garbage collector, kept away where it would only cost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """The collector off, for code that makes many objects which all stay; also a decorator.

    Their number alone makes it walk everything there is again and again: nearly half of the time that COCO's
    annotations take to load, and all of torch's modules for a checkpoint's tensors (docs/performance.md).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
