"""The tool that looks into checkpoints: its exit codes, its words, its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from pretrain.runtime.commands import UNREAD, status
from tests.conftest import ROOT
from tests.tools.test_errors import fails, tool  # noqa: F401
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.convert import keymap


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "moco.pth.tar"
    torch.save(moco(trunk(18)), path)
    return str(path)


@pytest.fixture
def inspect():
    return tool("inspect_checkpoint").main


def test_one_file(file, inspect, tmp_path, capsys):
    assert inspect([file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["takes"] == "state_dict > module.encoder_q."
    assert inspect([file, "--trunk", "encoder_k."]) == 0
    assert "a conversion takes 'state_dict > module.encoder_k.'" in capsys.readouterr().out
    torch.save({"a": torch.zeros(2)}, tmp_path / "none.pth")
    assert inspect([str(tmp_path / "none.pth")]) == 1
    assert "no conversion: no known layout" in capsys.readouterr().out
    state = trunk(18)
    torch.save({k: v for k, v in state.items() if k != "layer3.1.conv2.weight"}, tmp_path / "less.pth")
    assert inspect([str(tmp_path / "less.pth")]) == 1
    assert "no conversion: only 119 of the 120" in capsys.readouterr().out
    (tmp_path / "text.pth").write_text("text")
    assert status(inspect, [str(tmp_path / "text.pth")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read checkpoint")


def test_two_files(file, inspect, tmp_path, capsys):
    words = ["--diff", file, file, "--trunk=encoder_q.", "--trunk=encoder_k."]
    assert inspect([*words, "--json", "--picture", str(tmp_path / "gap.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in found["stages"]] == list(keymap.STAGES) and found["notes"] == []
    assert all(row["distance"] == pytest.approx(0.01, rel=1e-3) for row in found["stages"])
    assert (tmp_path / "gap.png").stat().st_size > 1000
    assert inspect([*words[:3], "--trunk=encoder_k."]) == 0
    assert capsys.readouterr().out.count(" 0.0000 ") >= 5


def test_a_picture_of_another_format_is_refused_before_anything_is_read(fails, tmp_path):  # noqa: F811
    words = ["--diff", tmp_path / "gone.pth", tmp_path / "gone.pth", "--picture", tmp_path / "g.xyz"]
    fails("inspect_checkpoint", words, "g.xyz' must end in one of .png, .pdf, .svg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one file, or --diff A B"),
        (["a", "--diff", "a", "b"], "give one file, or --diff A B"),
        (["a", "--picture", "gap.png"], "--picture draws a comparison; give --diff A B"),
        (["a", "--trunk", "x", "--trunk", "y"], "--trunk was given 2 times"),
        (["--diff", "a", "b", *["--trunk", "x"] * 3], "--trunk was given 3 times"),
    ],
)
def test_words_that_mean_nothing(inspect, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        inspect(words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_reader_that_goes(file):
    """As with `| head -c 5`: no traceback, whether or not the output fits into a buffer."""
    for script, words in (("inspect_checkpoint", [file, "--json"]), ("status", ["--help"])):  # status imports little
        command = [sys.executable, str(ROOT / "tools" / f"{script}.py"), *words]
        buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, cwd=ROOT, env=buffered) as process:
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == UNREAD == 141
