"""Locks folders: for the stage that works there, and for the run that writes there; and marks half-written files.

The kernel holds the locks (`flock`; on NFS from version 4 on) and releases them when the last process that has the file
open is gone, however it died: a lock file that a killed process leaves behind locks nothing.

* The stage's lock lies beside the folder, which may be renamed, and others wait for it. The command that a stage starts
  inherits it: the folder stays locked while the command lives.
* The run's lock lies inside, and a second run is refused. It belongs to the run's main process alone: a process that is
  forked from it (a loader's worker) closes the file at once, or a killed run would seem to live as long as its workers.
  Locks of `fcntl` would not do. They are never inherited, but a process loses them when it closes any descriptor of the
  file, such as that through which it read who holds the lock; and two runs in one process would both get them.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.machine import FolderGone

logger = logging.getLogger(__name__)

RUN = ".run.lock"
_PATIENCE = 1.0  # seconds that a run tries: whoever asks about a lock holds it for an instant
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_of_runs: dict[int, Path] = {}  # file descriptor -> folder
_of_temporaries: set[int] = set()  # file descriptors


class LockError(ExpectedError, RuntimeError):
    """A folder that another run works in, or a file system on which nothing can be locked."""


def lock_file(folder: Path) -> Path:
    """Returns the path of the lock of the stage that works in `folder`."""
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Waits until no other stage works in `folder`, and keeps others out of it.

    Yields:
        A file descriptor. A child process that inherits it holds the lock too: the folder stays locked while the child
        lives, even if this process is killed.

    Raises:
        LockError: the file system has no locks.
    """
    path = lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _open(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("'%s': waiting for %s, which works there", folder, holder(path))
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise LockError(
                    f"cannot lock '{path}' ({error.strerror}); put the output folder on a file system with locks"
                ) from error
            raise
        _sign(fd)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Keeps every other run out of `folder`; makes the folder if it is missing, and removes it again if it stays empty.

    Where nothing can be locked, a warning says so and the run goes on.

    Raises:
        LockError: another run works there; the message says which.
        FolderGone: the folder was removed or renamed meanwhile.
        OSError: the folder cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    fd = _take(folder)
    try:
        yield
        check_folders()
    finally:
        if fd in _of_runs:  # not in a process that was forked meanwhile
            if _is_at(fd, folder / RUN):
                (folder / RUN).unlink()
            _drop(fd)
            with suppress(OSError):  # not empty
                for path in missing:
                    path.rmdir()


def check_folders() -> None:
    """Checks that the folders of this process's runs still exist, before a file is written that would make them anew.

    Raises:
        FolderGone: a folder was removed or renamed.
    """
    for fd, folder in _of_runs.items():
        if not _is_at(fd, folder / RUN):
            raise FolderGone(
                f"'{folder}' was removed or renamed while the run worked there, with what it had written; put it back "
                "to go on from its last checkpoint (--resume auto), or begin anew"
            )


def _take(folder: Path) -> int:
    until = time.monotonic() + _PATIENCE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fd = _open(folder / RUN)
        except FileNotFoundError:  # whoever made the folder has just removed it
            if time.monotonic() > until:
                raise
            continue
        _of_runs[fd] = folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, folder / RUN):  # whoever held it removed the file when it was done
                _sign(fd)
                return fd
        except BlockingIOError:
            if time.monotonic() > until:
                _drop(fd)
                raise LockError(
                    f"'{folder}' is in use by {holder(folder / RUN)}, which runs there; wait for it, or choose another "
                    "folder"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                logger.warning(
                    "'%s' cannot be locked (%s): see to it that no other run writes there", folder, error.strerror
                )
                return fd
            _drop(fd)
            raise
        _drop(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _drop(fd: int) -> None:
    _of_runs.pop(fd, None)
    os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _sign(fd: int) -> None:
    words = f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
    os.ftruncate(fd, 0)
    os.pwrite(fd, words.encode(), 0)


def _disown() -> None:
    """Closes the locks in a process that was just forked, because only its parent runs and writes."""
    for fd in (*_of_runs, *_of_temporaries):
        os.close(fd)
    _of_runs.clear()
    _of_temporaries.clear()


os.register_at_fork(after_in_child=_disown)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Marks a new temporary file or folder as one of a living process.

    Yields:
        Whether it still exists: another process may have removed it before it was marked.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _of_temporaries.add(fd)
    try:
        with suppress(OSError):  # a file system without locks: nobody removes anything there
            fcntl.flock(fd, fcntl.LOCK_SH)
        yield _is_at(fd, path)
    finally:
        if fd in _of_temporaries:  # not in a process that was forked meanwhile
            _of_temporaries.discard(fd)
            os.close(fd)


@contextmanager
def unclaimed(path: Path) -> Iterator[bool]:
    """Yields whether no living process has marked a temporary file or folder; inside the block, none can.

    It yields False where that cannot be found out.
    """
    try:
        fd = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(fd)


def holder(path: Path) -> str:
    """Returns, for people, who is written into a lock file as its holder."""
    try:
        return path.read_text(errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def worker_in(folder: Path) -> str | None:
    """Returns, for people, which run or stage works in `folder` now; None if none does.

    Raises:
        LockError: the file system has no locks, so that nobody knows.
    """
    return run_in(folder) or _held(lock_file(folder))


def run_in(folder: Path) -> str | None:
    """Returns which run works in `folder` now; see `worker_in`."""
    return _held(folder / RUN)


def _held(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # nobody has ever locked it, or not for us to know
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder(path)
    except OSError as error:
        raise LockError(f"cannot ask about '{path}' ({error.strerror})") from error
    finally:
        os.close(fd)
    return None
