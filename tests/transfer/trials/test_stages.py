"""A stage is done when its records say so: not because files lie about."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from pretrain.runtime.commands import TERMINATED, run
from pretrain.runtime.lock import hold_run, lock_file
from transfer.trials import stages
from transfer.trials.failure import read_failure
from transfer.trials.stages import Stage, StageError, StageStopped


def stage(folder, inputs=None, code="open(sys.argv[1] + '/out', 'a').write('x')"):
    command = (sys.executable, "-c", f"import sys; {code}", str(folder))
    return Stage("test", folder, command, inputs or {"a": 1}, ("out",))


def test_it_runs_once(tmp_path):
    s = stage(tmp_path / "s")
    assert s.state() == "new"
    s.run()
    assert s.state() == "done"
    s.run()
    assert (tmp_path / "s" / "out").read_text() == "x"


def test_files_without_a_record_do_not_count(tmp_path):
    s = stage(tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "out").write_text("stray")
    assert s.state() == "new"


def test_a_damaged_output_is_made_again(tmp_path):
    s = stage(tmp_path / "s")
    s.run()
    (tmp_path / "s" / "out").write_text("damaged")
    assert s.state() == "started"
    s.run()
    assert s.state() == "done"


def test_other_inputs_set_the_old_folder_aside(tmp_path):
    stage(tmp_path / "s").run()
    other = stage(tmp_path / "s", {"a": 2})
    assert other.state() == "stale" and other.changes() == "a"
    other.run()
    assert other.state() == "done" and (tmp_path / "s.stale1" / "out").read_text() == "x"


def test_a_folder_is_not_moved_under_a_run_that_was_started_by_hand(tmp_path):
    stage(tmp_path / "s").run()
    with hold_run(tmp_path / "s"), pytest.raises(StageError, match="test: '.*s' is in use by process .*; wait for it"):
        stage(tmp_path / "s", {"a": 2}).run()
    assert stage(tmp_path / "s").state() == "done"


def test_a_failure_keeps_what_is_there_and_is_not_done(tmp_path):
    s = stage(tmp_path / "s", code="open(sys.argv[1] + '/half', 'w'); sys.exit(3)")
    with pytest.raises(StageError, match="exit code 3"):
        s.run()
    assert s.state() == "failed" and (tmp_path / "s" / "half").exists()
    assert read_failure(tmp_path / "s") == "the command ended with exit code 3"
    with pytest.raises(StageError, match="left no out"):
        stage(tmp_path / "t", code="pass").run()


def test_it_is_tried_again_after_a_failure(tmp_path):
    code = "import os; old = os.path.exists(sys.argv[1] + '/x'); open(sys.argv[1] + '/x', 'w'); old or sys.exit(1); "
    s = stage(tmp_path / "s", code=code + "open(sys.argv[1] + '/out', 'w')")
    with pytest.raises(StageError):
        s.run()
    s.run()
    assert s.state() == "done" and read_failure(tmp_path / "s") is None


def test_the_commands_own_reason_is_kept(tmp_path):
    code = "open(sys.argv[1] + '/failed.json', 'w').write('{\"error\": \"the loss is nan\"}'); sys.exit(2)"
    with pytest.raises(StageError, match="exit code 2: the loss is nan"):
        stage(tmp_path / "s", code=code).run()


def test_a_command_that_is_asked_to_stop_has_not_failed(tmp_path):
    for code in ("sys.exit(75)", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"):
        s = stage(tmp_path / "s", code=code)
        with pytest.raises(StageStopped):
            s.run()
        assert s.state() == "started" and read_failure(tmp_path / "s") is None


def test_sigterm_of_the_caller_ends_the_command(tmp_path):
    """The command has sent it, and would sleep on."""
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    s, begin = stage(tmp_path / "s", code=code), time.monotonic()
    with pytest.raises(SystemExit) as end:
        run(s.run)
    assert end.value.code == TERMINATED and time.monotonic() - begin < 30 and s.state() == "started"


def test_a_signal_while_a_command_starts_reaches_it(tmp_path, monkeypatch, request):
    """As of a scheduler that takes a job back in the moment that its command starts."""
    code = """
here = pathlib.Path(sys.argv[1])
def told(*_):
    (here / 'told').touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, told)
(here / 'ready').touch()
time.sleep(30)
"""
    popen = subprocess.Popen

    def start(*args, **options):
        process = popen(*args, **options)
        while not (tmp_path / "a" / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.3)  # in which the handler runs, if this is its thread
        return process

    def leave(*_):
        stages.stop_running(grace=10)
        raise SystemExit

    before = signal.signal(signal.SIGUSR1, leave)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, before))
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(SystemExit):
        stage(tmp_path / "a", code="import pathlib, signal, sys, time" + code).run()
    assert (tmp_path / "a" / "told").exists() and not stages._running


def test_a_path_among_the_inputs_stands_for_its_bytes(tmp_path):
    weights = tmp_path / "w"
    weights.write_bytes(b"a")
    s = stage(tmp_path / "s", {"weights": weights})
    s.run()
    weights.rename(tmp_path / "v")
    assert s.state() == "stale"
    same = stage(tmp_path / "s", {"weights": tmp_path / "v"})
    assert same.state() == "done"
    (tmp_path / "v").write_bytes(b"b")
    assert same.state() == "stale"


def test_another_release_makes_it_anew(tmp_path, monkeypatch):
    s = stage(tmp_path / "s")
    s.run()
    monkeypatch.setattr(stages, "CODE", "99")
    assert s.state() == "stale" and s.changes() == "code"


def test_two_invocations_run_it_once(tmp_path):
    """The second one waits for the first, and then finds it done."""
    code = "import time; open(sys.argv[1] + '/out', 'a').write('x'); time.sleep(1)"
    processes = [multiprocessing.get_context("fork").Process(target=stage(tmp_path / "s", code=code).run) for _ in "ab"]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
    assert [p.exitcode for p in processes] == [0, 0] and (tmp_path / "s" / "out").read_text() == "x"


def test_the_command_keeps_the_lock_when_its_parent_is_killed(tmp_path):
    """Nobody starts a second training beside an orphaned one."""
    go, folder = tmp_path / "go", tmp_path / "s"
    code = f"import os, time; open(sys.argv[1] + '/began', 'w')\nwhile not os.path.exists({str(go)!r}): time.sleep(.01)"
    first = multiprocessing.get_context("fork").Process(target=stage(folder, code=code).run)
    first.start()
    while not (folder / "began").exists():
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with open(lock_file(folder)) as f:
        with pytest.raises(BlockingIOError):
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert f"process {first.pid} on" in f.read()
        go.touch()
        fcntl.flock(f, fcntl.LOCK_EX)  # the command is gone, and the lock with it
