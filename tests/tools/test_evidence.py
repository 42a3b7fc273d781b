"""tools/evidence.py on what is on disk; what it runs are experiments, whose own tests run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.commands import status
from tests.tools.test_errors import tool
from tests.transfer.report import trees
from tests.transfer.report.test_judgement import CLAIM
from transfer.trials import execute
from transfer.trials.jobs import Outcome


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing has run of the experiments that every page is made of, as it may have in the checkout."""
    monkeypatch.chdir(tmp_path)


def test_the_page_of_what_is_there(generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = trees.experiment_file(tmp_path, generated, findings=[CLAIM])
    trees.fill(trees.plan(file))
    page = tmp_path / "docs" / "evidence.md"
    words = [str(file), "--page", str(page), "--engine", "torchvision"]
    assert status(tool("evidence").main, [*words, "--page-only"]) == 0
    assert f"1 of 1 findings show: {page}" in capsys.readouterr().out
    assert "**shows**" in page.read_text()


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("failed", 2), ("stopped", 75)])
def test_exit_codes(state: str, code: int, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = trees.experiment_file(tmp_path, generated, findings=[CLAIM])
    trees.fill(plan := trees.plan(file))
    monkeypatch.setattr("transfer.trials.preflight.missing", lambda plan: [])
    monkeypatch.setattr("transfer.trials.preflight.refused", lambda plan, **_: [])
    monkeypatch.setattr(execute, "run", lambda plan, launcher: [Outcome("a stage", tmp_path, state)])
    words = [str(file), "--page", str(tmp_path / "page.md"), "--engine", "torchvision"]
    assert status(tool("evidence").main, words) == code
    assert (tmp_path / "page.md").is_file() and (plan.experiment.output / "report.html").is_file()


def test_what_is_wrong_is_said_before_anything_runs(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trees.experiment_file(tmp_path, generated, findings=[CLAIM | {"row": "nobody"}])
    assert status(tool("evidence").main, [str(file), "--page", str(tmp_path / "page.md")]) == 2
    assert "no row that is run is called 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_what_is_missing_is_said_of_all_before_the_first_runs(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, page = trees.experiment_file(tmp_path, generated, findings=[CLAIM]), tmp_path / "page.md"
    monkeypatch.setattr("transfer.trials.preflight.missing", lambda plan: [f"weights of {plan.experiment.path.name}"])
    monkeypatch.setattr(execute, "run", lambda *_: pytest.fail("it ran"))
    assert status(tool("evidence").main, [str(file), "--page", str(page)]) == 2
    assert f"cannot run yet, missing:\nweights of {file.name}" in capsys.readouterr().err
    page.write_text("made elsewhere")
    assert status(tool("evidence").main, [str(file), "--page", str(page), "--page-only"]) == 2
    assert "is left as it is" in capsys.readouterr().err and page.read_text() == "made elsewhere"


def test_a_page_that_cannot_be_written_is_said_before_anything_runs(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trees.experiment_file(tmp_path, generated, findings=[CLAIM])
    monkeypatch.setattr(execute, "run", lambda plan, launcher: pytest.fail("it runs"))
    (tmp_path / "file").write_text("")
    for page, message in ((tmp_path, "is a folder; give a file"), (tmp_path / "file" / "page.md", "check the path")):
        assert status(tool("evidence").main, [str(file), "--page", str(page), "--engine", "torchvision"]) == 2
        assert message in capsys.readouterr().err
