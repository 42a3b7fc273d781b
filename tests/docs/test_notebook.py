"""docs/demo.ipynb: committed without outputs, its commands and configs exist, and it runs from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from pretrain.runtime import entry
from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "demo.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]

# What makes it small: as written it takes ten minutes.
SMALL = {
    "--iconic-train 800 --iconic-val 200": "--iconic-train 256 --iconic-val 64",
    "--scenes-trainval 60 --scenes-test 20": "--scenes-trainval 8 --scenes-test 4",
    "SOLVER.EPOCHS 5 SOLVER.WARMUP_EPOCHS 1": "SOLVER.EPOCHS 1 SOLVER.WARMUP_EPOCHS 0",
    'SOLVER.MAX_ITER, 60, SOLVER.STEPS, "(50,)"': 'SOLVER.MAX_ITER, 22, SOLVER.STEPS, "(21,)"',
}


def test_it_is_committed_as_it_was_written():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_its_commands_and_files_exist():
    text = "\n".join(CODE)
    known = {name for folder in entry.GROUPS for name in entry.scripts(folder)}
    used = set(re.findall(r"^moco-transfer ([a-z]\S*)", text, re.M))
    assert {"train-moco", "convert-pretrain-to-detectron2", "reproduce"} <= used <= known
    for path in re.findall(r"configs/[\w./-]+\.yaml", text):
        assert (ROOT / path).is_file(), path
    for part in SMALL:
        assert text.count(part) == 1, part


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    command = tmp_path / "bin" / "moco-transfer"  # what an installation puts on PATH
    command.parent.mkdir()
    code = "from pretrain.runtime.entry import entry; entry()"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = NOTEBOOK.read_text(encoding="utf-8")
    for written, smaller in SMALL.items():
        text = text.replace(json.dumps(written)[1:-1], json.dumps(smaller)[1:-1])
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if output.output_type == "display_data"]
    assert sum("image/png" in output.data or "image/jpeg" in output.data for output in shown) >= 4
    report = next(output.data["text/html"] for output in shown if "text/html" in output.data)
    assert "Two initialisations" in report
