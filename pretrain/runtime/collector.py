"""The cyclic garbage collector, kept away where it would only cost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """The collector off, for code that makes many objects which all stay; also a decorator.

    Their number alone makes it walk everything there is again and again: of COCO's annotations two thirds of the
    time to load, of a checkpoint's tensors all of torch's modules (0.4 s).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
