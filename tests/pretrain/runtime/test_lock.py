"""The lock of a run: one run per folder, free the moment that its main process is gone, whatever that leaves behind."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.runtime import lock
from pretrain.runtime.alone import alone_in
from pretrain.runtime.config import ConfigError
from pretrain.runtime.lock import LockError, hold, hold_run, run_in, worker_in
from tests.conftest import ROOT
from tests.processes import run_in_processes

RUN_WITH_WORKERS = """
import sys, time
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from pretrain.runtime.alone import alone_in

class Slow(Dataset):
    def __len__(self): return 100
    def __getitem__(self, i):
        if i > 3: time.sleep(60)
        return i

if __name__ == "__main__":
    with alone_in(sys.argv[1]):
        batches = DataLoader(Slow(), num_workers=2, multiprocessing_context=sys.argv[2])._get_iterator()
        next(batches)
        print(*(worker.pid for worker in batches._workers), flush=True)
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)


def test_a_second_run_is_refused_and_told_who_runs(tmp_path: Path) -> None:
    words = rf"'{tmp_path}/a' is in use by process {os.getpid()} on .+ \(since \d{{4}}-.*\), which runs there; wait"
    with hold_run(tmp_path / "a"):
        with pytest.raises(LockError, match=words), hold_run(tmp_path / "a"):
            pass
        assert f"process {os.getpid()} on " in (run_in(tmp_path / "a") or "")
        with hold_run(tmp_path / "b"):  # another folder is another matter
            pass
    assert run_in(tmp_path / "a") is None
    with hold_run(tmp_path / "a"):
        pass


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold_run(tmp_path):
        raise ZeroDivisionError
    assert run_in(tmp_path) is None


def test_run_and_stage_do_not_hinder_each_other(tmp_path: Path) -> None:
    """A stage's command runs in the stage's folder."""
    with hold(tmp_path / "a"):
        assert run_in(tmp_path / "a") is None and worker_in(tmp_path / "a") is not None
        with hold_run(tmp_path / "a"):
            assert run_in(tmp_path / "a") is not None
    assert worker_in(tmp_path / "a") is None


def test_who_asks_does_not_keep_a_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask is to hold the lock for an instant; a run that starts just then tries again."""
    monkeypatch.setattr(lock, "_PATIENCE", 10)
    (tmp_path / lock.RUN).touch()
    code = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(); time.sleep(0.3)"
    command = [sys.executable, "-c", code, str(tmp_path / lock.RUN)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None and asking.stdout.readline()
        with hold_run(tmp_path):
            assert run_in(tmp_path) is not None


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_killed_run_is_free_at_once_though_its_workers_live(tmp_path: Path, start: str) -> None:
    (tmp_path / "main.py").write_text(RUN_WITH_WORKERS)
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "run"), start]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        workers = [int(pid) for pid in run.stdout.readline().split()]
        try:
            assert len(workers) == 2 and f"process {run.pid} on " in (run_in(tmp_path / "run") or "")
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)  # they would notice within seconds that they are orphans
            run.kill()
            run.wait()
            assert run_in(tmp_path / "run") is None
            for worker in workers:
                os.kill(worker, 0)  # it lives
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)


def test_a_forked_process_does_not_give_the_lock_away(tmp_path: Path) -> None:
    with hold_run(tmp_path):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        assert run_in(tmp_path) is not None


def test_without_locks_the_run_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with caplog.at_level(logging.WARNING), hold_run(tmp_path):
        pass
    assert [r.message for r in caplog.records] == [
        f"'{tmp_path}' cannot be locked (Operation not supported): see to it that no other run writes there"
    ]
    (tmp_path / lock.RUN).touch()
    with pytest.raises(LockError, match="cannot ask about"):
        run_in(tmp_path)


def test_what_a_refused_run_made_goes_and_what_was_there_stays(tmp_path: Path) -> None:
    with hold_run(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with hold_run(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "log.txt").touch()
    (tmp_path / "empty").mkdir()
    with hold_run(tmp_path / "empty"):
        pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "empty", "log.txt"]


def count_alone(folder: Path, times: int) -> None:
    """Adds 1 to a number in a file, which is lost if two do so at once."""
    lock._PATIENCE = 60
    for _ in range(times):
        with hold_run(folder / "run"):
            number = int((folder / "number").read_text())
            time.sleep(0.001)
            (folder / "number").write_text(str(number + 1))


def test_never_two_though_the_file_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [multiprocessing.get_context("fork").Process(target=count_alone, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4 and (tmp_path / "number").read_text() == "100"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="OUTPUT_DIR '.*file/a' cannot be written .*choose another folder"):
        with alone_in(tmp_path / "file" / "a"):
            pass


def enter(folder: str) -> str:
    try:
        with alone_in(folder):
            return "ran"
    except LockError as error:
        return str(error)


def test_a_group_takes_one_lock_and_hears_one_verdict(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert run_in_processes(enter, tmp_path / "a", str(tmp_path / "run")) == ["ran", "ran"]
    with hold_run(tmp_path / "run"):
        first, second = run_in_processes(enter, tmp_path / "b", str(tmp_path / "run"))
    assert first == second and f"is in use by process {os.getpid()} on" in first
