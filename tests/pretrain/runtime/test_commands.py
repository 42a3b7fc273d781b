"""What the commands share: `--resume` wherever it stands, and one line after Ctrl-C."""

from __future__ import annotations

import argparse

import pytest

from pretrain.runtime.commands import INTERRUPTED, leave, parse_with_resume
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


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_every_tool_ends_so(path) -> None:
    if path.stem != "status":  # status ends by itself, without a word
        assert path.read_text().rstrip().splitlines()[-1].strip() in ("leave(main)", "leave(run)")
