"""tools/status.py: what it says of runs in every state, that it fits the screen, and that it imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.runtime import commands, result
from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from transfer.trials import failure, stages, status
from transfer.trials.lock import hold
from transfer.trials.status import Run, runs, screen

NOW = 2_000_000_000.0


def fine_tuning(folder: Path, done: int, written: float = NOW, **config: int) -> None:
    """`done` iterations of 400, two images each, at 10 images per second."""
    folder.mkdir(parents=True)
    solver = {"MAX_ITER": 400, "IMS_PER_BATCH": 2} | config
    (folder / "config.yaml").write_text(json.dumps({"SOLVER": solver}))
    with MetricsWriter(folder, tensorboard=False) as out:
        for i in range(0, done, 20):
            out.write(i + 19, total_loss=4.0 - i / 400, images_per_second=10.0)
        out.write(done - 1, **{"bbox/AP": 3.0})  # an evaluation: no loss, no rate
    os.utime(folder / "metrics.jsonl", (written, written))


def one(folder: Path) -> Run:
    (found,) = runs(folder, NOW)
    return found


def test_file_names_are_those_of_the_writers(tmp_path):
    assert (status.RESULT, status.RECORD, status.FAILED) == (result.FILE_NAME, stages.RECORD, failure.FAILED)
    assert MetricsWriter(tmp_path, tensorboard=False).path.name == status.METRICS


def test_running(tmp_path):
    """200 iterations of 2 images at 10 per second are left: 40 s, 10 of which have passed since the last line."""
    fine_tuning(tmp_path / "seed_1", 200, NOW - 10)
    run = one(tmp_path)
    assert (run.name, run.state, run.done, run.total) == ("seed_1", "running", 200, 400)
    assert run.eta == pytest.approx(30) and run.age == pytest.approx(10) and run.metric == "total_loss 3.55"


def test_stopped_unless_somebody_holds_its_lock(tmp_path):
    fine_tuning(tmp_path / "seed_1", 200, NOW - 3600)
    assert one(tmp_path).state == "stopped" and one(tmp_path).eta is None
    with hold(tmp_path / "seed_1"):
        assert one(tmp_path).state == "running"
    assert one(tmp_path).state == "stopped"


def test_done_and_failed(tmp_path):
    fine_tuning(tmp_path / "a", 400)
    RunResult("train", "torchvision", 1, "d", metrics={"bbox/AP75": 9.0, "bbox/AP": 53.55, "bbox/AP50": 81.5}).save(
        tmp_path / "a"
    )
    fine_tuning(tmp_path / "b", 40)
    failure.write_failure(tmp_path / "b", "the loss is nan\nat 40")
    a, b = runs(tmp_path, NOW)
    assert (a.state, a.metric, a.eta) == ("done", "AP50 81.5, AP 53.5", None)
    assert (b.state, b.metric, b.done) == ("failed", "the loss is nan at 40", 40)


def test_pre_training_counts_epochs(tmp_path):
    """Epoch 0.5 after 50 iterations: 100 in an epoch, 600 in six; 550 of 32 images at 160 per second take 110 s."""
    (tmp_path / "moco").mkdir()
    (tmp_path / "moco" / "config.yaml").write_text("SOLVER: {EPOCHS: 6, ITERATIONS: 0, BATCH_SIZE: 32}")
    with MetricsWriter(tmp_path / "moco", tensorboard=False) as out:
        out.write(49, loss=6.0, epoch=0.5, images_per_second=160.0)
    os.utime(tmp_path / "moco" / "metrics.jsonl", (NOW, NOW))
    run = one(tmp_path)
    assert (run.done, run.total, run.metric) == (50, 600, "loss 6") and run.eta == pytest.approx(110)
    (tmp_path / "moco" / "config.yaml").write_text("SOLVER: {EPOCHS: 0, ITERATIONS: 100, BATCH_SIZE: 32}")
    assert one(tmp_path).total == 100


def test_what_the_engine_expects_is_taken(tmp_path):
    fine_tuning(tmp_path / "d2", 100)
    with open(tmp_path / "d2" / "metrics.jsonl", "a") as f:
        f.write('{"iteration": 119, "eta_seconds": 77.0}\n{"iteration": 12')  # cut short by a kill
    os.utime(tmp_path / "d2" / "metrics.jsonl", (NOW, NOW))
    assert one(tmp_path).eta == 77.0 and one(tmp_path).done == 120


def test_broken_files_and_what_is_no_run(tmp_path):
    for name in ("data/x", "s.stale1", "jobs", "row"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("{")
    (tmp_path / "row" / "config.yaml").write_text("SOLVER: [")
    (run,) = runs(tmp_path)
    assert run == Run("row", "running", None, None, None, "", run.age)


def test_the_screen_fits():
    found = [
        Run("rows/torchvision/supervised-in-1m-torchvision/seed_1", "running", 12000, 24000, 93784.0, "loss 1", 3.0),
        Run("rows/torchvision/moco/seed_2", "failed", 40, 24000, None, "the loss is nan " * 20, 8000.0),
        Run("stages/data", "done", None, None, None, "", None),
    ]  # fmt: skip
    for width in (80, 100, 140):
        lines = screen(found, width).splitlines()
        assert max(map(len, lines)) <= width and lines[-1] == "3 runs: 1 done, 1 running, 1 failed"
        assert "12000/24000  50%  1d 02:03" in lines[1]
        assert "2 h ago" in lines[2] and "seed_1" in lines[1]
    assert screen([], 80) == "no runs"


def test_tool(tmp_path, capsys):
    main = tool("status").main
    fine_tuning(tmp_path / "out" / "seed_1", 200, time.time())
    assert main([str(tmp_path / "out")]) == 0 and "200/400" in capsys.readouterr().out
    (tmp_path / "e.yaml").write_text(f"title: t\noutput: {tmp_path}/out\n")
    assert main([str(tmp_path / "e.yaml")]) == 0 and "1 runs: 1 running" in capsys.readouterr().out
    assert commands.status(main, [str(tmp_path / "gone")]) == 2 and "does not exist" in capsys.readouterr().err
    assert commands.status(main, [str(tmp_path / "gone.yaml")]) == 2 and "does not exist" in capsys.readouterr().err


def test_it_imports_no_torch():
    code = "import sys, transfer.trials.status; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
