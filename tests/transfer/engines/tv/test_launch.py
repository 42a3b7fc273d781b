"""However its processes are started, a run is the same run, bit for bit; the linter comes before every training."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pretrain.runtime import lock
from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from tests.processes import Tool
from tests.transfer.convert.checkpoints import moco, trunk
from tests.transfer.engines.test_machines import free_port
from transfer.config.load import load_config
from transfer.convert.convert import convert
from transfer.convert.read import read_weights
from transfer.engines.tv.engine import TorchvisionEngine

SHORT = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", "MODEL.BACKBONE.FREEZE_AT", "1"]


@pytest.mark.slow
def test_two_machines_torchrun_and_two_processes_train_the_same_model(small_config, small_opts, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it
    tool = [str(ROOT / "tools" / "train_net.py"), "--engine", "torchvision", "--config-file", str(small_config)]
    url = f"tcp://127.0.0.1:{free_port()}"

    def words(folder: str) -> list[str]:
        return [*small_opts, *SHORT, "OUTPUT_DIR", str(tmp_path / folder)]

    def start(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    two = [
        start(*tool, "--num-machines", "2", "--machine-rank", rank, "--dist-url", url, "--", *words("machines"))
        for rank in ("0", "1")
    ]
    (out, error), (other, _) = (process.communicate(timeout=300) for process in two)
    assert [process.returncode for process in two] == [0, 0], error
    assert "result.json" in out and "result.json" not in other  # the main process reports
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    elastic = start(*torchrun, *tool, "--", *words("torchrun"))
    _, error = elastic.communicate(timeout=300)
    assert elastic.returncode == 0, error
    TorchvisionEngine().train(load_config(small_config, words("spawned")), num_gpus=2)

    results = [RunResult.load(tmp_path / name) for name in ("machines", "torchrun", "spawned")]
    assert results[0].metrics == results[1].metrics == results[2].metrics
    assert results[0].notes == results[1].notes == results[2].notes
    assert sum("[freeze-at]" in note for note in results[0].notes) == 1
    a, b, c = (read_weights(tmp_path / name / "model_final.pth") for name in ("machines", "torchrun", "spawned"))
    assert a.keys() == b.keys() == c.keys()
    assert all(torch.equal(a[key], b[key]) and torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_no_run_where_another_one_works(small_config, small_opts, tmp_path, monkeypatch, processes, training):
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    torch.save({"model": {"proposal_generator.weight": torch.zeros(1)}}, tmp_path / "whole.pth")
    weights = [] if training else ["MODEL.WEIGHTS", str(tmp_path / "whole.pth")]
    cfg = load_config(small_config, [*small_opts, *SHORT, *weights, "OUTPUT_DIR", str(tmp_path / "run")])
    engine = TorchvisionEngine()
    with lock.hold_run(tmp_path / "run"), pytest.raises(lock.LockError, match="run' is in use by process"):
        if training:
            engine.train(cfg, resume="auto", num_gpus=processes)
        else:
            engine.evaluate(cfg, num_gpus=processes)
    assert not (tmp_path / "run").exists()


def test_no_training_without_the_linter(small_config, small_opts, tmp_path):
    """All errors in one message; weights that disagree with the config are among them; evaluation has no schedule."""
    torch.save(moco(trunk(18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "r18.pkl")
    opts = [*small_opts, "MODEL.WEIGHTS", str(tmp_path / "r18.pkl"), "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]
    late = ["SOLVER.STEPS", "(4, 100)"]
    with pytest.raises(ConfigError, match=r"linter refuses(?s:.)*\[std\] MODEL.PIXEL_STD(?s:.)*\[steps\].*\(100,\)"):
        TorchvisionEngine().train(load_config(small_config, [*opts, *late]))
    assert not list(Path(tmp_path).glob("run/*"))
    with pytest.raises(ConfigError, match="holds a trunk, not a whole network"):
        TorchvisionEngine().evaluate(load_config(small_config, [*opts, *late]))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "iterations"), [(1, 12), (2, 24)])  # two agree at the twentieth
def test_asked_to_stop_it_saves_and_continues_bit_for_bit(
    processes, iterations, small_config, small_opts, tmp_path, monkeypatch
):
    """SIGTERM in the middle, to the command alone: exit code 75 after a checkpoint that no period asked for."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [ROOT / "tools" / "train_net.py", "--engine", "torchvision", "--num-gpus", processes,
               "--config-file", small_config, "--resume", "auto", "--"]  # fmt: skip
    words = [
        *small_opts,
        "SOLVER.MAX_ITER",
        str(iterations),
        "SOLVER.CHECKPOINT_PERIOD",
        "1000",
        "INPUT.MIN_SIZE_TRAIN",
        "(48,)",
    ]

    def train(folder: str, *more: str) -> Tool:
        return Tool(*command, *words, "OUTPUT_DIR", tmp_path / folder, *more)

    whole = train("whole")
    assert whole.wait(300) == 0
    stopped = train("stopped")
    until = time.monotonic() + 120
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < until:  # the first iteration
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    _, error = stopped.communicate(timeout=300)
    assert stopped.returncode == 75 and "SIGTERM" in error and "go on with --resume auto" in error, error
    assert (tmp_path / "stopped" / "last_checkpoint").is_file()
    assert not (tmp_path / "stopped" / "model_final.pth").exists()
    again = train("stopped")
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0 and "resumed at iteration" in error, error
    a, b = (read_weights(tmp_path / folder / "model_final.pth") for folder in ("whole", "stopped"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
