"""Temporary files and folders: marked while the process lives that writes them, removed if it was killed."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.runtime.lock import claimed, unclaimed

_OURS = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp|\.staged\.[a-z0-9_]{8}")  # as `temporary` and `staging` name them


@contextmanager
def temporary(path: Path) -> Iterator[tuple[int, Path]]:
    """A file beside `path`, open, under a name of its own; whoever has renamed it keeps it, else it is removed.

    Yields:
        File descriptor, for the caller to close, and path.
    """
    _tidy(path.parent)
    while True:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with claimed(Path(name)) as there:
            if not there:
                os.close(fd)
                continue
            try:
                yield fd, Path(name)
            finally:
                Path(name).unlink(missing_ok=True)
            return


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A folder beside `path`, which is removed in the end."""
    _tidy(path.parent)
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".staged."))
        with claimed(folder) as there:
            if not there:
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def remove(folder: Path) -> None:
    """Removes what killed processes have left half-written in a folder; not below it, and nothing of a living one."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _OURS.fullmatch(path.name):
            continue
        with unclaimed(path) as free:
            if free and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif free:
                path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1024)
def _tidy(folder: Path) -> None:
    """Does it once per process and folder: whoever writes there removes what was left there."""
    remove(folder)
