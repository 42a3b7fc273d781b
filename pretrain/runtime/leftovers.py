"""Makes temporary files and folders, which are marked while their process lives, and removes those of killed ones."""

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
    """Opens a file with a unique name beside `path`. It is kept if the caller renames it, and removed otherwise.

    Yields:
        A file descriptor, which the caller must close, and the path of the file.
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
    """Makes a folder beside `path`, and removes it in the end."""
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
    """Removes what killed processes have left half-written directly in a folder; keeps what living processes write."""
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
    """Calls `remove` once per process and folder, so that whoever writes in a folder also cleans it up."""
    remove(folder)
