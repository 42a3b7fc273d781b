"""What the commands share: `--resume` wherever it stands, one line after Ctrl-C, none after a closed pipe."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.runtime.commands import (
    INTERRUPTED,
    REQUEUE_STATUS,
    TERMINATED,
    UNREAD,
    WRONG,
    Terminated,
    number,
    parse_with_resume,
    run,
    status,
)
from pretrain.runtime.errors import ConfigError, Preempted
from pretrain.runtime.limits import between
from pretrain.runtime.log import setup_logging
from pretrain.runtime.machine import NO_RESOURCE
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("words", "resume", "opts"),
    [
        ("SEED 1", "no", "SEED 1"),
        ("--resume SEED 1", "must", "SEED 1"),
        ("SEED 1 --resume", "must", "SEED 1"),
        ("--resume auto SEED 1", "auto", "SEED 1"),
        ("A 2 --resume SEED 1", "must", "A 2 SEED 1"),
        ("A 2 --eval --resume auto SEED 1", "auto", "A 2 SEED 1"),
        ("A 2 --resume=auto SEED 1", "auto", "A 2 SEED 1"),
    ],
)
def test_resume_and_options_in_any_order(words: str, resume: str, opts: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--eval", action="store_true")
    args = parse_with_resume(parser, words.split(), yes="must")
    assert (args.resume, args.opts, args.eval) == (resume, opts.split(), "--eval" in words)


def test_another_word_for_resume_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_with_resume(argparse.ArgumentParser(), ["--resume=never"])
    assert "invalid choice: 'never'" in capsys.readouterr().err


def interrupted() -> int:
    raise KeyboardInterrupt


def test_status_and_one_line_after_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(lambda: 75)
    assert end.value.code == 75 and capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as end:
        run(interrupted)
    assert end.value.code == INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted; run it again to go on (a training with --resume auto)\n"


def sent(number: int) -> int:
    """Sends itself SIGTERM, and again while it tidies up, as `timeout` does; returns only if that changes nothing."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        sys.stdout.write("tidied up\n")
    return number


def test_sigterm_is_an_orderly_end(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        run(lambda: sent(1))
    assert end.value.code == TERMINATED == 143 and signal.getsignal(signal.SIGTERM) is before
    out, err = capsys.readouterr()
    assert out == "tidied up\n" and err == "stopped by SIGTERM; run it again to go on (a training with --resume auto)\n"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_sigterm_that_is_ignored_or_handled_stays_so(
    handler: Any, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    with pytest.raises(SystemExit) as end:
        run(lambda: sent(7))
    assert end.value.code == 7 and capsys.readouterr() == ("tidied up\n", "")


def test_a_command_within_a_command_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    """As `moco-transfer` runs the tools."""
    with pytest.raises(SystemExit) as end:
        run(lambda: run(lambda: sent(1)))
    assert end.value.code == TERMINATED and capsys.readouterr().err.count("stopped by SIGTERM") == 1


def forked() -> int:
    """What SIGTERM makes of a forked child that would tidy up."""
    if (child := os.fork()) == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_dies_of_the_signal_itself() -> None:
    with pytest.raises(SystemExit) as end:
        run(forked)
    assert end.value.code == -signal.SIGTERM


def failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("SEED is -2; it must be at least 0"), "error: SEED is -2; it must be at least 0"),
        (
            FileNotFoundError(2, "No such file or directory", "a.pth"),
            "error: 'a.pth': No such file or directory; ",
        ),
        (PermissionError(13, "Permission denied", "/out"), "error: '/out': Permission denied; check the path and its"),
        (OSError("the disk has gone"), "error: the disk has gone"),
        (FloatingPointError("loss is nan at iteration 3"), "error: loss is nan at iteration 3"),
        (
            OSError(
                "Caught ConfigError in DataLoader worker process 0.\nOriginal Traceback ...\n"
                "pretrain.runtime.config.ConfigError: cannot read image 'a.jpg'\n"
            ),
            "error: cannot read image 'a.jpg'",
        ),
    ],
)
def test_what_may_go_wrong_is_one_line(error: BaseException, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(failing, error) == WRONG == 2
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), BrokenPipeError(32, "Broken pipe")])
def test_what_is_a_fault_of_ours_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        status(failing, error)


def test_asked_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(failing, Preempted("SIGTERM: stopped after 3 of 6 iterations")) == REQUEUE_STATUS == 75
    assert capsys.readouterr().err.startswith("SIGTERM: stopped after 3 of 6 iterations; go on with --resume auto")


def test_a_torch_that_has_no_memory_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: torch.empty(2**60)) == NO_RESOURCE == 71
    assert "error: out of memory: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "word", "said"),
    [
        (int, "0", "0: it must be at least 1 and at most 9"),
        (int, "x", "'x' is not a whole number"),
        (int, "1.5", "'1.5' is not a whole number"),
        (int, "9" * 5000, "is not a whole number"),
        (float, "nan", "nan: it must be at least 1 and at most 9"),
        (float, "inf", "inf: it must be"),
        (float, "0.5", "0.5: it must be at least 1"),
    ],
)
def test_numbers_within_limits(kind: type[int], word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=number(between(1, 9), kind))
    assert parser.parse_args(["-n", "3"]).n == 3
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["-n", word])
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and "error: argument -n: " in error and said in error


def ended(body: str, *flags: str, closed: bool = True) -> tuple[int, str]:
    """(exit code, stderr) of a command whose output nobody reads, if `closed`; `body` is what its `main` does."""
    lines = (
        "import os, sys",
        "from pretrain.runtime.commands import run",
        "def main():",
        f"    {body}",
        "    return 7",
    )
    command = [sys.executable, *flags, "-c", "\n".join((*lines, "run(main)"))]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=ROOT, env=env, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        if closed:
            process.stdout.close()
        else:
            process.stdout.read()
        return process.wait(), process.stderr.read()


@pytest.mark.parametrize("flags", [(), ("-u",)], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 10**6)", "print('x'); sys.exit(3)"])
def test_a_reader_that_goes_leaves_no_word(body: str, flags: tuple[str, ...]) -> None:
    """`-u` fails in `print`, long output in the middle of it, the rest only when it is flushed."""
    assert ended(body, *flags) == (UNREAD, "") and UNREAD == 141


def test_ctrl_c_counts_more_than_a_reader_that_has_gone() -> None:
    code, words = ended("print('x'); raise KeyboardInterrupt")
    assert code == INTERRUPTED and words.startswith("interrupted; ") and words.count("\n") == 1


def test_other_ends_are_as_they_were() -> None:
    assert ended("print('x')", closed=False) == (7, "")
    assert ended("print('x'); sys.exit('no such thing')", closed=False) == (1, "no such thing\n")
    broken = "r, w = os.pipe(); os.close(r); os.write(w, b'x')"  # such as a loader's process that has died
    code, words = ended(broken, closed=False)
    assert code == 1 and words.startswith("Traceback") and "BrokenPipeError" in words


@pytest.mark.parametrize(
    "path",
    sorted(p for folder in ("tools", "datasets") for p in (ROOT / folder).glob("*.py")),
    ids=lambda path: path.stem,
)
def test_every_tool_ends_so(path) -> None:
    assert path.read_text().endswith('if __name__ == "__main__":\n    run(main)\n')


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("no such key"), "error: no such key"),
        (KeyboardInterrupt(), "interrupted; run it again"),
        (Terminated(TERMINATED), "stopped by SIGTERM; run it again"),
        (Preempted("SIGTERM: stopped after 3"), "SIGTERM: stopped after 3; go on with"),
        (TypeError("a fault of ours"), "ended by TypeError: a fault of ours\nTraceback"),
    ],
)
def test_the_runs_log_says_what_ended_it(error: BaseException, said: str, tmp_path: Path, capsys) -> None:
    setup_logging(tmp_path)
    with pytest.raises(TypeError if isinstance(error, TypeError) else SystemExit):
        run(lambda: failing(error))
    assert said in (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().err.count(said.splitlines()[0]) == (0 if isinstance(error, TypeError) else 1)
