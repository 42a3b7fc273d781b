"""Reads files that somebody else has made: regular files alone, so that no pipe or device can block a read."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
RECORD_BYTES = 1 << 28  # of a file that a run leaves to be read: results, metrics, records; a hundred times the largest


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading, also through links.

    Raises:
        OSError: there is no such file, it cannot be read, its name is not valid, or it is something else: a folder, a
            named pipe, a device, a socket. None of these is opened.
    """
    try:
        _check(path, os.stat(path))
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(path, os.fstat(fd))  # of what was opened, whatever has taken the name in between
        except OSError:
            os.close(fd)
            raise
    except ValueError as error:  # a NUL in the name, or half a character
        raise OSError(errno.EINVAL, f"it is no file name ({error})", ascii(os.fspath(path))) from None
    return os.fdopen(fd, "rb")


def read_regular(path: str | os.PathLike[str], at_most: int | None = None) -> bytes:
    """Returns the bytes of a regular file.

    Args:
        at_most: the largest number of bytes that is read.

    Raises:
        OSError: see `open_regular`; also if the file is larger than `at_most`.
    """
    with open_regular(path) as f:
        if at_most is not None and (size := os.fstat(f.fileno()).st_size) > at_most:
            raise OSError(errno.EINVAL, f"it has {size} bytes, where at most {at_most} are read", os.fspath(path))
        return f.read()


def read_record(path: str | os.PathLike[str]) -> str:
    """Returns the text of a file that a run has left, in UTF-8.

    Raises:
        OSError: see `read_regular`; the file may have at most RECORD_BYTES.
        UnicodeDecodeError: the file is not UTF-8 (a ValueError).
    """
    return read_regular(path, RECORD_BYTES).decode("utf-8")


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Returns whether a name leads to a regular file; an invalid name does not."""
    try:
        return Path(path).is_file()
    except ValueError:
        return False


def _check(path: str | os.PathLike[str], state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = next((words for test, words in _KINDS if test(state.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
