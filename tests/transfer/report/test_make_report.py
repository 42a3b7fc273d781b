"""tools/make_report.py: from what is on disk, running nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from pretrain.runtime.commands import status
from tests.conftest import ROOT
from tests.transfer.report import trees


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_report", ROOT / "tools" / "make_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prints_the_table_and_writes_the_report(
    tool: ModuleType, tmp_path: Path, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trees.experiment_file(tmp_path, generated, trials=2)
    trees.fill(trees.plan(file))
    assert tool.main([str(file), "--engine", "torchvision"]) == 0
    out = capsys.readouterr().out
    assert "supervised IN-1M" in out and f"report: {tmp_path / 'out' / 'report.html'}" in out
    assert (tmp_path / "out" / "report.html").is_file()


def test_no_results_folder_is_an_error_with_a_remedy(
    tool: ModuleType, tmp_path: Path, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trees.experiment_file(tmp_path, generated)
    assert status(tool.main, [str(file), "--output-dir", str(tmp_path / "elsewhere"), "--engine", "torchvision"]) == 2
    assert "tools/reproduce.py" in capsys.readouterr().err


def test_trials_of_another_batch_are_found_by_the_option_that_made_them(
    tool: ModuleType, tmp_path: Path, generated: Path
) -> None:
    file = trees.experiment_file(tmp_path, generated, trials=2)
    trees.fill(trees.plan(file, auto_scale=4))
    for words, differs in ((["--auto-scale", "4"], False), ([], True)):
        assert tool.main([str(file), "--engine", "torchvision", *words]) == 0
        page = (tmp_path / "out" / "report.html").read_text()
        assert ("while the experiment file now gives" in page) == differs


def test_fewer_trials_than_the_file_says_make_a_finished_report(
    tool: ModuleType, tmp_path: Path, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trees.experiment_file(tmp_path, generated, trials=3)
    trees.fill(trees.plan(file), finished={"supervised-in-1m": 1, "moco-v2": 1})
    for words, complete in ((["--trials", "1"], 2), ([], 0)):
        assert tool.main([str(file), "--engine", "torchvision", *words]) == 0
        page = (tmp_path / "out" / "report.html").read_text()
        assert ("All rows are complete." if complete else "0 of 2 rows complete.") in page
    assert status(tool.main, [str(file), "--engine", "torchvision", "--trials", "0"]) == 2
    assert "trials is 0" in capsys.readouterr().err
