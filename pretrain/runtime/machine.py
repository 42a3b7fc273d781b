"""Tells faults of the machine, which lacks or has lost something, from mistakes, by the words of the error.

An error reaches a command through loaders' processes, torch's writers and other processes' tracebacks, which keep the
words of the system and lose the rest. This module does not import torch.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from dataclasses import dataclass

from pretrain.runtime.errors import ExpectedError

NO_RESOURCE = 71  # EX_OSERR of sysexits.h: memory, shared memory, processes or open files ran out
NO_STORAGE = 74  # EX_IOERR: a disk is full, read-only or broken, or the output folder has gone

_STORAGE = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EFBIG", "ESTALE", "ENOTCONN")
_AGAIN = "run it again (a training with --resume auto)"
FEWER = "take fewer workers (DATA.NUM_WORKERS, DATALOADER.NUM_WORKERS or --num-workers)"
NOT_SHARED = (
    "no shared memory: /dev/shm is missing, full or not writable; give the container more (--shm-size 8g, or "
    "--ipc=host), or set the number of workers (DATA.NUM_WORKERS, DATALOADER.NUM_WORKERS or --num-workers) to 0"
)
NO_FILES = f"too many open files; raise the limit (ulimit -n), or {FEWER}"
_PROCESSES = f"no more processes can be started; raise the limit (ulimit -u), or {FEWER}"
_MEMORY = (
    "out of memory", "can't allocate memory", "Cannot allocate memory", "Insufficient memory", "bad_alloc",
    "Unable to allocate", "STATUS_ALLOC_FAILED", "Caught MemoryError",
)  # fmt: skip
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?:.*?killed by signal: ([\w ]+?)[.\n])?", re.S)
_QUOTED = re.compile(r"(?<!\w)'[^'\n]*'(?!\w)|\"[^\"\n]*\"")  # names of files, classes, keys: anybody's words
_SHM = re.compile(r"shared memory|shm_open|</?torch_\d+")


class MachineError(ExpectedError, RuntimeError):
    """Something that the machine lacked, or that was taken from a run; the message says what to do.

    Attributes:
        code: the exit code of the command.
    """

    def __init__(self, words: str, code: int = NO_RESOURCE):
        super().__init__(words)
        self.code = code


class FolderGone(MachineError):
    """The folder of a run was removed or renamed while it worked there."""

    def __init__(self, words: str):
        super().__init__(words, NO_STORAGE)


@dataclass(frozen=True)
class Fault:
    """Describes how the machine failed.

    Attributes:
        code: the exit code of the command.
        words: a sentence with the remedy.
    """

    code: int
    words: str


def fault(error: BaseException) -> Fault | None:
    """Returns how the machine failed, if that ended a run; None for anything else, such as a mistake or a bug."""
    if isinstance(error, OSError) and (found := _of_system_call(error)) is not None:
        return found
    if isinstance(error, EOFError) and _raised_in(error, "multiprocessing"):
        return Fault(NO_RESOURCE, _worker_ended("a process of a loader", None))  # before it had sent what it announced
    if isinstance(error, MachineError):
        return Fault(error.code, str(error))
    found = _told(str(error))
    if found is None and isinstance(error, MemoryError):
        found = Fault(NO_RESOURCE, _out_of_memory("no more is to be had"))
    if found is not None and isinstance(error, ExpectedError):  # whoever raised it knew more
        return Fault(found.code, str(error))
    return found


def _told(text: str) -> Fault | None:
    said = _QUOTED.sub("''", text)
    if (worker := _WORKER.search(said)) is not None:
        if _SHM.search(said) or worker[2] == "Bus error":
            return Fault(NO_RESOURCE, NOT_SHARED)
        return Fault(NO_RESOURCE, _worker_ended(f"process {worker[1]} of a loader", worker[2]))
    if _SHM.search(said):
        return Fault(NO_RESOURCE, NOT_SHARED)
    lines = zip(text.split("\n"), said.split("\n"), strict=True)  # names hold other ends of lines, not this one
    if of_memory := [line.strip() for line, bare in lines if any(words in bare for words in _MEMORY)]:
        return Fault(NO_RESOURCE, _out_of_memory(of_memory[0]))
    if _says(said, "EMFILE", "ENFILE") or "items of ancdata" in said:
        return Fault(NO_RESOURCE, NO_FILES)
    if _says(said, "EAGAIN") or "can't start new thread" in said:
        return Fault(NO_RESOURCE, _PROCESSES)
    if _says(said, *_STORAGE):
        last = re.sub(r"^(?:[\w.]+: )?(?:\[Errno \d+\] )?", "", text.strip().splitlines()[-1])
        return Fault(NO_STORAGE, f"{last}; free space or choose another folder, and {_AGAIN}")
    return None


def _says(text: str, *errors: str) -> bool:
    return any(os.strerror(getattr(errno, name)) in text for name in errors)


def _out_of_memory(what: str) -> str:
    return f"out of memory: {what}; take a smaller batch, model or queue, or a larger machine"


def _of_system_call(error: OSError) -> Fault | None:
    code, what = error.errno, error.strerror or str(error)
    if _raised_in(error, "multiprocessing"):
        if isinstance(error, ConnectionError):  # a worker that died while it sent a batch
            return Fault(NO_RESOURCE, _worker_ended("a process of a loader", None))
        if code in (errno.ENOENT, errno.EACCES, errno.ENOSYS, errno.ENOSPC, errno.EROFS):  # of a semaphore or a queue
            return Fault(NO_RESOURCE, NOT_SHARED)
    if code == errno.ENOMEM:
        return Fault(NO_RESOURCE, _out_of_memory(what))
    if code in (errno.EMFILE, errno.ENFILE):
        return Fault(NO_RESOURCE, NO_FILES)
    if code == errno.EAGAIN:
        return Fault(NO_RESOURCE, _PROCESSES)
    if code in [getattr(errno, name) for name in _STORAGE]:
        where = f"'{error.filename}': " if error.filename is not None else ""
        return Fault(NO_STORAGE, f"{where}{what}; free space or choose another folder, and {_AGAIN}")
    return None


def _worker_ended(who: str, signal: str | None) -> str:
    how = f"was ended ({signal})" if signal else "ended without a word"
    return f"{who} {how}, by the system if memory or /dev/shm ran out; {FEWER} or a larger machine, and {_AGAIN}"


def _raised_in(error: BaseException, package: str) -> bool:
    """Returns whether the error comes out of a package's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(package in frame.filename.split(os.sep) for frame in frames[-2:])
