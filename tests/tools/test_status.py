"""tools/status.py: what it says of runs in every state, that it fits the screen, and that it imports no torch."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.runtime import commands, result
from pretrain.runtime.lock import RUN, hold, hold_run
from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from transfer.trials import failure, stages, status
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
    with hold_run(tmp_path / "seed_1"):
        run = one(tmp_path)
    assert (run.name, run.state, run.done, run.total) == ("seed_1", "running", 200, 400)
    assert run.eta == pytest.approx(30) and run.age == pytest.approx(10) and run.metric == "total_loss 3.55"


@pytest.mark.parametrize("lock", [hold, hold_run])
def test_a_run_lives_as_long_as_its_lock_is_held(tmp_path, lock):
    """However long it has not written, an hour here: an evaluation is silent. And however lately it has written."""
    fine_tuning(tmp_path / "seed_1", 200, NOW - 3600)
    assert one(tmp_path).state == "stopped" and one(tmp_path).eta is None
    with lock(tmp_path / "seed_1"):
        assert one(tmp_path).state == "running"
    os.utime(tmp_path / "seed_1" / "metrics.jsonl", (NOW, NOW))
    assert one(tmp_path).state == "stopped"


def test_a_run_that_has_not_written_yet(tmp_path):
    with hold_run(tmp_path / "seed_1"):
        assert one(tmp_path) == Run("seed_1", "running")
    assert list(runs(tmp_path, NOW)) == []  # nothing of it is there


def test_where_nothing_can_be_locked_nobody_knows(tmp_path, monkeypatch):
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fine_tuning(tmp_path / "seed_1", 200)
    (tmp_path / "seed_1" / RUN).touch()
    monkeypatch.setattr("fcntl.flock", flock)
    assert one(tmp_path).state == "unknown" and screen([one(tmp_path)], 80).endswith("1 runs: 1 unknown")


def test_done_and_failed(tmp_path):
    fine_tuning(tmp_path / "a", 400)
    RunResult("train", "torchvision", 1, "d", metrics={"bbox/AP75": 9.0, "bbox/AP": 53.55, "bbox/AP50": 81.5}).save(
        tmp_path / "a"
    )
    fine_tuning(tmp_path / "b", 40)
    failure.write_failure(tmp_path / "b", "the loss is nan\nat 40")
    a, b = runs(tmp_path, NOW)
    assert (a.state, a.metric, a.eta) == ("done", "AP50 81.5, AP 53.5, AP75 9.0", None)
    assert (b.state, b.metric, b.done) == ("failed", "the loss is nan at 40", 40)


def test_pre_training_counts_epochs(tmp_path):
    """Epoch 0.5 after 50 iterations: 100 in an epoch, 600 in six; 550 of 32 images at 160 per second take 110 s."""
    (tmp_path / "moco").mkdir()
    (tmp_path / "moco" / "config.yaml").write_text("SOLVER: {EPOCHS: 6, ITERATIONS: 0, BATCH_SIZE: 32}")
    with MetricsWriter(tmp_path / "moco", tensorboard=False) as out:
        out.write(49, loss=6.0, epoch=0.5, images_per_second=160.0)
    os.utime(tmp_path / "moco" / "metrics.jsonl", (NOW, NOW))
    with hold_run(tmp_path / "moco"):
        run = one(tmp_path)
    assert (run.done, run.total, run.metric) == (50, 600, "loss 6") and run.eta == pytest.approx(110)
    (tmp_path / "moco" / "config.yaml").write_text("SOLVER: {EPOCHS: 0, ITERATIONS: 100, BATCH_SIZE: 32}")
    assert one(tmp_path).total == 100


def test_what_the_engine_expects_is_taken(tmp_path):
    fine_tuning(tmp_path / "d2", 100)
    with open(tmp_path / "d2" / "metrics.jsonl", "a") as f:
        f.write('{"iteration": 119, "eta_seconds": 77.0}\n{"iteration": 12')  # cut short by a kill
    os.utime(tmp_path / "d2" / "metrics.jsonl", (NOW, NOW))
    with hold_run(tmp_path / "d2"):
        assert one(tmp_path).eta == 77.0 and one(tmp_path).done == 120


@pytest.mark.parametrize(
    ("kind", "metrics", "words"),
    [
        ("train", {"bbox/AP": 38.91, "bbox/AP50": 58.0, "bbox/APs": 20.0, "segm/AP": 35.44}, "AP 38.9, mask AP 35.4"),
        ("knn", {"knn/acc1": 44.04, "knn/acc5": 70.0}, "kNN top-1 44.0"),
        ("linear", {"acc5": 80.0, "acc1": 60.6, "best_acc1": 61.0}, "linear top-1 60.6"),
        ("finetune", {"acc5": 90.0, "acc1": 76.5, "best_acc1": 76.6}, "fine-tuned top-1 76.5"),
        ("pretrain", {"loss": 6.5, "acc1": 70.0, "skipped": 0.0}, "pretext accuracy 70.0"),
        ("train", {"unheard/of": 1.0}, ""),
    ],
)
def test_results_are_named_as_their_protocols_do(tmp_path, kind, metrics, words):
    RunResult(kind, "torchvision", 1, "d", metrics=metrics).save(tmp_path)
    assert one(tmp_path).metric == words


def test_broken_files_and_what_is_no_run(tmp_path):
    for name in ("data/x", "s.stale1", "jobs", "row"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("{")
    (tmp_path / "row" / "config.yaml").write_text("SOLVER: [")
    (run,) = runs(tmp_path)
    assert run == Run("row", "stopped", None, None, None, "", run.age)


_ODD = (
    *(b"", b"\xff\xfe\x00", b"null", b"7", b"[" * 10000, b"&a [*a]", b'{"error": [1]}', b'{"outputs": 1}'),
    *(b'{"iteration": "x"}', b'{"iteration": 1e999}', b'{"iteration": true}', b'{"iteration": -1}'),
    *(b'{"iteration": 1%s}' % (b"0" * 400), b'{"iteration": 1%s}' % (b"0" * 5000)),
    *(b'{"metrics": [1]}', b'{"metrics": {"bbox/AP": "x"}}', b'{"metrics": {"bbox/AP": 1e999}, "kind": []}'),
    b'{"iteration": 5, "epoch": "x", "loss": "x", "images_per_second": 0, "eta_seconds": NaN}',
    b'{"iteration": 5, "epoch": 0, "loss": [], "images_per_second": -1, "eta_seconds": "soon"}',
    *(b"SOLVER: {MAX_ITER: many, IMS_PER_BATCH: []}", b"SOLVER: 3", b"SOLVER: {EPOCHS: x, BATCH_SIZE: 0}"),
    b"SOLVER: {EPOCHS: .nan, ITERATIONS: -3}",
)


@pytest.mark.parametrize("content", _ODD)
def test_odd_files_never_raise(tmp_path, content):
    for name in ("metrics.jsonl", "result.json", "stage.json", "failed.json", "config.yaml"):
        folder = tmp_path / "one" / name / os.fsdecode(b"\xff\x1b[2J")
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"iteration": 5, "epoch": 1}\n')
        (folder / name).write_bytes(content)
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "all" / name).write_bytes(content)
    with hold_run(tmp_path / "all"):
        text = screen(list(runs(tmp_path, NOW)), 200)
    assert len(text.encode().splitlines()) == 1 + 6 + 2 and "\x1b" not in text


def test_folders_in_the_place_of_files_never_raise(tmp_path):
    for name in ("metrics.jsonl", "stage.json", "failed.json", "config.yaml", ".run.lock"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "result.json").write_text("{}")
    assert [run.state for run in runs(tmp_path, NOW)] == ["failed"]


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
    (tmp_path / "e.yaml").write_text(f"title: t\noutput: {tmp_path}/out\n")
    assert main([str(tmp_path / "out")]) == 0 and "200/400" in capsys.readouterr().out
    with hold_run(tmp_path / "out" / "seed_1"):
        assert main([str(tmp_path / "e.yaml")]) == 0 and "1 runs: 1 running" in capsys.readouterr().out
    assert commands.status(main, [str(tmp_path / "gone")]) == 2 and "does not exist" in capsys.readouterr().err
    assert commands.status(main, [str(tmp_path / "gone.yaml")]) == 2 and "does not exist" in capsys.readouterr().err


def test_it_imports_no_torch():
    code = "import sys, transfer.trials.status; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("epoch", [1e-320, 5e-324])
def test_a_line_whose_epoch_is_next_to_nothing_breaks_no_view(tmp_path, epoch):
    (tmp_path / "config.yaml").write_text("SOLVER: {EPOCHS: 200, BATCH_SIZE: 2}")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"iteration": 5, "epoch": epoch, "images_per_second": epoch}))
    with hold_run(tmp_path):
        run = one(tmp_path)
    assert (run.done, run.total, run.eta) == (6, None, None) and "6" in screen([run], 80)
