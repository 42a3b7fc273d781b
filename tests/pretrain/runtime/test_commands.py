"""What the commands share: `--resume` wherever it stands, one line after Ctrl-C, none after a closed pipe."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from pretrain.runtime.commands import INTERRUPTED, UNREAD, leave, parse_with_resume
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
        leave(lambda: 75)
    assert end.value.code == 75 and capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as end:
        leave(interrupted)
    assert end.value.code == INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted; run it again to go on (a training with --resume auto)\n"


def run(body: str, *flags: str, closed: bool = True) -> tuple[int, str]:
    """(exit code, stderr) of a command whose output nobody reads, if `closed`; `body` is what its `main` does."""
    lines = (
        "import os, sys",
        "from pretrain.runtime.commands import leave",
        "def main():",
        f"    {body}",
        "    return 7",
    )
    command = [sys.executable, *flags, "-c", "\n".join((*lines, "leave(main)"))]
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
    assert run(body, *flags) == (UNREAD, "") and UNREAD == 141


def test_ctrl_c_counts_more_than_a_reader_that_has_gone() -> None:
    code, words = run("print('x'); raise KeyboardInterrupt")
    assert code == INTERRUPTED and words.startswith("interrupted; ") and words.count("\n") == 1


def test_other_ends_are_as_they_were() -> None:
    assert run("print('x')", closed=False) == (7, "")
    assert run("print('x'); sys.exit('no such thing')", closed=False) == (1, "no such thing\n")
    broken = "r, w = os.pipe(); os.close(r); os.write(w, b'x')"  # such as a loader's process that has died
    code, words = run(broken, closed=False)
    assert code == 1 and words.startswith("Traceback") and "BrokenPipeError" in words


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_every_tool_ends_so(path) -> None:
    assert path.read_text().rstrip().splitlines()[-1].strip() in ("leave(main)", "leave(run)")
