"""Detectron2 as one of a process group, as torchrun and --num-machines start it; the linter before every training."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from tests.transfer.engines.test_machines import free_port
from transfer.config.load import load_config

pytestmark = pytest.mark.d2


def test_a_group_evaluates_together_and_does_not_train_on_the_cpu(small_config, small_opts, tmp_path):
    from transfer.engines.d2.engine import Detectron2Engine

    engine = Detectron2Engine()
    short = [*small_opts, "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", "MODEL.BACKBONE.FREEZE_AT", "1"]
    trained = engine.train(load_config(small_config, short, engine.defaults()))
    assert sum("[freeze-at]" in note for note in trained.notes) == 1
    tool = [str(ROOT / "tools" / "train_net.py"), "--engine", "detectron2", "--config-file", str(small_config)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *tool]
    url = f"tcp://127.0.0.1:{free_port()}"
    machines = [[*tool, "--num-machines", "2", "--machine-rank", r, "--dist-url", url] for r in "01"]
    weights = ["MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth")]
    for name, commands in (("torchrun", [torchrun]), ("machines", machines)):
        words = ["--eval-only", "--", *short, *weights, "OUTPUT_DIR", str(tmp_path / name)]
        processes = [
            subprocess.Popen([sys.executable, *command, *words], stderr=subprocess.PIPE, text=True)
            for command in commands
        ]
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), errors
        assert RunResult.load(tmp_path / name).metrics == trained.metrics

    words = [*short, "OUTPUT_DIR", str(tmp_path / "refused")]
    done = subprocess.run([sys.executable, *torchrun, *words], capture_output=True, text=True)
    assert "error: Detectron2 trains in several processes only on GPUs, not in these 2 on the CPU" in done.stderr
    assert done.returncode != 0 and not (tmp_path / "refused" / "result.json").exists()


def test_no_training_without_the_linter(small_config, small_opts):
    from transfer.engines.d2.engine import Detectron2Engine

    engine = Detectron2Engine()
    with pytest.raises(ConfigError, match=r"linter refuses(?s:.)*\[name\] MODEL.ROI_HEADS.NAME.*registered nowhere"):
        engine.train(load_config(small_config, [*small_opts, "MODEL.ROI_HEADS.NAME", "MyHeads"], engine.defaults()))
