"""A lock per working folder, so that two invocations on the same experiment never run the same stage at once.

The kernel holds it (`flock`; on NFS from version 4 on) and releases it when the last process that has the file open is
gone, however it died: there is nothing to clean up. The lock file lies beside the folder, which may be renamed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.runtime.errors import ExpectedError

logger = logging.getLogger(__name__)


class LockError(ExpectedError, RuntimeError):
    """A file system on which nothing can be locked."""


def lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Waits until no other process works in `folder`, and keeps others out of it.

    Yields:
        a file descriptor. A child process that inherits it holds the lock too: the folder stays locked while the child
        lives, even if this process is killed.

    Raises:
        LockError: the file system has no locks.
    """
    path = lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("'%s': waiting for %s, which works there", folder, holder(path))
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise LockError(
                    f"cannot lock '{path}' ({error.strerror}); put the output folder on a file system with locks"
                ) from error
            raise
        os.ftruncate(fd, 0)
        words = f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
        os.pwrite(fd, words.encode(), 0)
        yield fd
    finally:
        os.close(fd)


def holder(path: Path) -> str:
    """Who wrote itself into a lock file, for people."""
    return path.read_text().strip() or "another process"
