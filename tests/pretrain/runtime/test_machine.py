"""What the machine has not is one sentence and a code of its own, however deep a library has buried it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import signal
from collections.abc import Iterator

import pytest
from torch.utils.data import DataLoader, Dataset

from pretrain.runtime import commands
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.machine import NO_RESOURCE, NO_STORAGE, FolderGone, MachineError, fault
from pretrain.runtime.workers import check_workers
from tests.conftest import ROOT


def failing(error: BaseException) -> int:
    raise error


BURIED = "Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n{}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 71, "out of memory: no more is to be had; take a smaller batch"),
        (MemoryError(BURIED.format("MemoryError", "MemoryError")), 71, "out of memory: Caught MemoryError in DataL"),
        (RuntimeError("CUDA out of memory. Tried\nmore"), 71, "out of memory: CUDA out of memory. Tried; take a sm"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), 71, "out of memory: CUDA error: CUB"),
        (Exception("OpenCV(4.9) a.cpp:73: error: (-4:Insufficient memory) Failed to"), 71, "out of memory: OpenCV"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 71, "out of memory: Cannot allocate memory; take"),
        (OSError(errno.EMFILE, "Too many open files", "a.jpg"), 71, "too many open files; raise the limit (ulimit -n)"),
        (RuntimeError("received 0 items of ancdata"), 71, "too many open files; raise"),
        (RuntimeError("can't start new thread"), 71, "no more processes can be started; raise the limit"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 71, "no more processes can be started"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            71,
            "process 7 of a loader was end",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            71,
            "process 7, 8 of a loader ended",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"),
            *(71, "no shared memory: /dev/shm is missing, full or not writable; give the container more"),
        ),
        (RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode"), 71, "no shared memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/o/a.pth"), 74, "'/o/a.pth': No space left on device; free"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/o/a"), 74, "'/o/a': Disk quota exceeded; free"),
        (OSError(errno.EROFS, "Read-only file system"), 74, "Read-only file system; free space or choose another"),
        (
            OSError(BURIED.format("OSError", "OSError: [Errno 5] Input/output error: 'a.jpg'")),
            *(74, "Input/output error: 'a.jpg'; free space"),
        ),
        (
            CheckpointError("cannot write 'a' (No space left on device); free some"),
            74,
            "cannot write 'a' (No",
        ),
        (
            ConfigError("OUTPUT_DIR 'a' cannot be written (Read-only file system); choose"),
            74,
            "OUTPUT_DIR 'a' ",
        ),
        (FolderGone("'/o' was removed"), 74, "'/o' was removed"),
        (MachineError("seed 1: CUDA out of memory; retry"), 71, "seed 1: CUDA out of memory; retry"),
    ],
)
def test_one_sentence_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.status(failing, error) == code in (NO_RESOURCE, NO_STORAGE)
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        ConfigError("SEED is -2"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pth"),
        PermissionError(errno.EACCES, "Permission denied", "/out"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        RuntimeError(BURIED.format("KeyError", "KeyError: 'a'")),
    ],
)
def test_what_is_no_fault_of_the_machine(error: BaseException) -> None:
    assert fault(error) is None


class Numbers(Dataset[int]):
    """Ends its process at the third item, as the system does when memory runs out."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_loader_whose_process_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    check_workers(1)  # else torch raises later, wherever this process is then
    loader = DataLoader(Numbers(), num_workers=1, multiprocessing_context="fork")
    assert commands.status(lambda: len(list(loader))) == NO_RESOURCE
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"error: (a process|process \d+) of a loader (was|ended) .*; take fewer workers .* --resume auto\)\n", said
    )


class Unsendable(Dataset[object]):
    """Items that cannot be handed over, as tensors cannot when shared memory is full."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> object:
        return lambda: index


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    check_workers(1)
    loader = DataLoader(Unsendable(), num_workers=1, collate_fn=list, multiprocessing_context="fork")
    assert commands.status(lambda: len(list(loader))) == NO_RESOURCE
    assert "by the system if memory or /dev/shm ran out" in capsys.readouterr().err


@pytest.fixture
def no_semaphores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import _multiprocessing

    class Missing:
        def __init__(self, *_: object) -> None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

        SEM_VALUE_MAX = _multiprocessing.SemLock.SEM_VALUE_MAX

    monkeypatch.setattr("_multiprocessing.SemLock", Missing)
    yield


def test_without_shared_memory_no_loader_starts(no_semaphores: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.status(lambda: check_workers(0) or 0) == 0
    assert commands.status(lambda: check_workers(1) or 0) == NO_RESOURCE
    assert capsys.readouterr().err.startswith("error: no shared memory: /dev/shm is missing, full or not writable; ")


def test_too_few_files_are_said_before_half_of_the_workers_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (len(os.listdir("/proc/self/fd")) + 30, 4096))
    assert commands.status(lambda: check_workers(1) or 0) == 0
    assert commands.status(lambda: check_workers(8) or 0) == NO_RESOURCE
    assert capsys.readouterr().err.startswith("error: too many open files; raise the limit (ulimit -n), or take fewer")


def test_the_page_has_every_code() -> None:
    text = (ROOT / "docs" / "clusters.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| ([^|]+?) \|", text, re.M))
    assert {code: words for code, words in rows.items() if int(code) in commands.CODES} == {
        str(code): words for code, words in commands.CODES.items()
    }


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("data set 'out of memory' is not known"),
        ConfigError("no row is called \"shared memory\"; did you mean 'No space left on device'?"),
        KeyError("Too many open files"),
        RuntimeError("image 'a\u2028b\r\x0bc.jpg' cannot be read: \"shared\rmemory\""),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/Input/output error.jpg"),
    ],
)
def test_a_name_that_somebody_has_chosen_is_no_fault_of_the_machine(error: Exception) -> None:
    assert fault(error) is None


def test_a_worker_that_dies_before_it_has_sent_what_it_announced() -> None:
    """Its pipe ends; an end of file elsewhere, such as in a checkpoint, is no fault of the machine."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.close()
    with pytest.raises(EOFError) as raised:
        receiver.recv()
    found = fault(raised.value)
    assert found is not None and found.code == NO_RESOURCE and "of a loader" in found.words
    with pytest.raises(EOFError) as elsewhere:
        pickle.loads(b"")
    assert fault(elsewhere.value) is None
