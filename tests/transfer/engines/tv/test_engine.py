"""Whole runs at the smallest size: train, kill, resume, evaluate, several processes, and clear refusals."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import read_metrics
from tests.architectures import ARCHITECTURES, options
from tests.conftest import ROOT
from tests.processes import Tool, run_tool
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.config.load import load_config
from transfer.convert.convert import convert
from transfer.convert.read import read_weights
from transfer.data.catalog import DatasetError
from transfer.engines.base import EngineError
from transfer.engines.tv import loop
from transfer.engines.tv.engine import TorchvisionEngine

ENGINE = TorchvisionEngine()


@pytest.fixture
def run(small_config, small_opts):
    def train(*opts: str, resume: str = "no", num_gpus: int = 1):
        return ENGINE.train(load_config(small_config, [*small_opts, *opts]), resume=resume, num_gpus=num_gpus)

    return train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder / "model_final.pth")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_it_promises(run, tmp_path):
    torch.save(moco(trunk(18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "trunk.pkl")
    result = run("MODEL.WEIGHTS", str(tmp_path / "trunk.pkl"))
    out = tmp_path / "run"
    assert json.loads((out / "result.json").read_text())["metrics"].keys() == result.metrics.keys()
    assert {f"bbox/{m}" for m in ("AP", "AP50", "AP75")} <= set(result.metrics) and result.engine == "torchvision"
    assert result.seed == 3 and result.iterations == 6 and len(result.weights_sha256) == 64
    assert any("naiveSyncBN" in note for note in result.notes)
    assert load_config(out / "config.yaml").MODEL.RESNETS.NORM == "naiveSyncBN"  # the config itself is untouched
    lines = read_metrics(out / "metrics.jsonl")
    assert lines[0]["iteration"] == 0 and {"loss_cls", "loss_rpn_loc", "total_loss", "lr"} <= set(lines[0])
    assert (out / "predictions_generated_test.json").is_file()
    detectron2_names = weights(out)
    assert "roi_heads.res5.norm.weight" in detectron2_names and "backbone.res4.1.conv2.weight" in detectron2_names

    again = ENGINE.evaluate(
        load_config(
            out / "config.yaml", ["MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "e")]
        )
    )
    assert again.metrics == result.metrics and again.kind == "evaluate"


@pytest.mark.parametrize("name", ["R18-C4", "R18-FPN-mask", "R18-FPN-keypoint"])
def test_bf16_trains_on_a_cpu_near_float32(name, generated, tmp_path):
    """Products keep 8 bits, so losses part by about a percent; weights and what is saved stay float32.

    Those of the few foreground RoIs are left out: random scores that nearly tie sample others.
    """
    losses = []
    for amp in (False, True):
        out = tmp_path / str(amp) / "run"
        opts = [
            *options(name, generated, tmp_path / str(amp)),
            *ONE,
            "SOLVER.AMP.ENABLED",
            amp,
            "SOLVER.AMP.PRECISION",
            "bf16",
        ]
        ENGINE.train(load_config(ARCHITECTURES[name][0], opts))
        losses.append(read_metrics(out / "metrics.jsonl")[0])
        assert {v.dtype for v in weights(out).values() if v.is_floating_point()} == {torch.float32}
    plain, half = losses
    assert plain.keys() == half.keys() and plain["total_loss"] != half["total_loss"] > 0
    for key in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls"):
        assert half[key] == pytest.approx(plain[key], rel=0.05, abs=0.01), key


ONE = ("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0")


def test_a_seed_defines_a_trial(run, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run("OUTPUT_DIR", str(tmp_path / name), "SEED", seed, *ONE)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_killed_and_resumed_equals_uninterrupted(run, small_config, small_opts, tmp_path):
    run("OUTPUT_DIR", str(tmp_path / "whole"), "SOLVER.MAX_ITER", "12")
    out = tmp_path / "killed"
    words = [*small_opts, "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "12"]
    command = [ROOT / "tools" / "train_net.py", "--engine", "torchvision", "--config-file", small_config]
    process = Tool(*command, *words)
    deadline = time.time() + 120
    while not (out / "last_checkpoint").is_file() and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model_final.pth").exists(), "killed too late to test anything"
    done = run_tool(*command, "--resume", "--", *words)
    assert done.returncode == 0, done.stderr
    assert equal(weights(tmp_path / "whole"), weights(out))
    iterations = [line["iteration"] for line in read_metrics(out / "metrics.jsonl")]
    assert iterations == sorted(set(iterations)) and iterations[-1] == 11


def test_a_run_killed_before_its_evaluation_only_evaluates(run, tmp_path):
    first = run()
    (tmp_path / "run" / "result.json").unlink()
    before = (tmp_path / "run" / "model_final.pth").stat().st_mtime_ns
    assert run(resume="must").metrics == first.metrics
    assert (tmp_path / "run" / "model_final.pth").stat().st_mtime_ns == before


def test_two_processes_train_one_model(run, tmp_path, forked):
    """Two gloo processes of one image each; naive SyncBN makes their statistics common."""
    result = run("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", num_gpus=2)
    assert result.iterations == 3 and not any("naiveSyncBN" in note for note in result.notes)
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "run").values() if v.is_floating_point())
    with pytest.raises(CheckpointError, match="written by 2 processes, not 1"):
        (tmp_path / "run" / "model_final.pth").unlink()
        run("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", resume="must")


@pytest.mark.parametrize(
    ("opts", "error", "message"),
    [
        (["DATASETS.TRAIN", "()"], ConfigError, "DATASETS.TRAIN is empty"),
        (["DATASETS.TRAIN", "('generated_trainvall',)"], ConfigError, "did you mean generated_trainval"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], ConfigError, "NUM_CLASSES is 3, but data set"),
        (["MODEL.WEIGHTS", "gone.pkl"], ConfigError, "'gone.pkl' does not exist"),
        (["SOLVER.AMP.ENABLED", "True"], ConfigError, "in fp16 needs a GPU; .* SOLVER.AMP.PRECISION to bf16"),
        (["SOLVER.AMP.PRECISION", "bf61"], ConfigError, "did you mean bf16"),
        (["MODEL.MASK_ON", "True"], DatasetError, "MODEL.MASK_ON is True, but .* have no mask"),
        (["MODEL.RESNETS.DEPTH", "20"], ConfigError, "MODEL.RESNETS.DEPTH is 20"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(run, tmp_path, opts, error, message):
    with pytest.raises(error, match=message):
        run(*opts)
    assert not (tmp_path / "run" / "last_checkpoint").exists() and not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_around_the_last_checkpoint(after: bool, run, tmp_path, monkeypatch):
    """Precise BN draws RoIs, so that taken twice it would give other statistics."""
    three = ("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "2")
    run("OUTPUT_DIR", str(tmp_path / "whole"), *three)
    save = loop.Training.save

    def killed(training: loop.Training) -> None:
        if training.iteration < 3 or after:
            save(training)
        if training.iteration == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run("OUTPUT_DIR", str(tmp_path / "killed"), *three)
    run("OUTPUT_DIR", str(tmp_path / "killed"), *three, resume="must")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_an_old_run_is_not_overwritten_and_a_diverging_one_says_so(run):
    with pytest.raises(FloatingPointError, match="diverged; lower SOLVER.BASE_LR"):
        run("SOLVER.BASE_LR", "1e12", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1")
    with pytest.raises(EngineError, match="holds the checkpoint of an earlier run"):
        run()


def test_a_coco_set(run, generated):
    result = run(
        "DATASETS.SPECS", f"('{generated}/coco.yaml',)", "DATASETS.TRAIN", "('generated_coco_train',)",
        "DATASETS.TEST", "('generated_coco_val',)", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()",
    )  # fmt: skip
    assert {"bbox/AP", "bbox/APs", "bbox/APl"} <= set(result.metrics)
