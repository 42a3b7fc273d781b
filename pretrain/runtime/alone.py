"""Lets only one run work in a folder at a time, whether the run is one process or a group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pretrain.runtime import dist, leftovers
from pretrain.runtime.config import ConfigError
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.lock import LockError, hold_run


@contextmanager
def alone_in(output_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other runs out of a folder, and removes what a killed run has left half-written there.

    The main process takes the lock, and tells the other processes of the group whether it succeeded.

    Processes that a run starts for itself must not call this: the process that started them holds the lock for them.

    Raises:
        LockError: another run works in the folder.
        ConfigError: the folder cannot be written.
        FolderGone: the folder was removed or renamed meanwhile.
    """
    problem: ExpectedError | None = None
    with ExitStack() as held:
        if dist.is_main():
            try:
                held.enter_context(hold_run(Path(output_dir)))
                leftovers.remove(Path(output_dir))
            except LockError as error:
                problem = error
            except OSError as error:
                problem = ConfigError(
                    f"OUTPUT_DIR '{output_dir}' cannot be written ({error.strerror}); choose another folder"
                )
        problem = dist.broadcast_object(problem)
        if problem is not None:
            raise problem
        yield
