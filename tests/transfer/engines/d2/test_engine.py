"""Whole runs on Detectron2 at the smallest size."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest
import torch

from pretrain.runtime import lock
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import read_metrics
from pretrain.runtime.preempt import Preempted
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.config.load import load_config
from transfer.convert.convert import convert
from transfer.engines.base import EngineError
from transfer.trials import status

pytestmark = pytest.mark.d2


@pytest.fixture
def run(small_config, small_opts):
    from transfer.engines.d2.engine import Detectron2Engine

    engine = Detectron2Engine()

    def train(*opts: str, resume: str = "no", num_gpus: int = 1):
        return engine.train(load_config(small_config, [*small_opts, *opts], engine.defaults()), resume, num_gpus)

    return train


@pytest.mark.parametrize("training", [True, False])
def test_no_run_where_another_one_works(run, small_config, small_opts, tmp_path, monkeypatch, training):
    from transfer.engines.d2.engine import Detectron2Engine

    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    engine = Detectron2Engine()
    with lock.hold_run(tmp_path / "run"), pytest.raises(lock.LockError, match="run' is in use by process"):
        if training:
            run(resume="auto")
        else:
            torch.save({"model": {"proposal_generator.weight": torch.zeros(1)}}, tmp_path / "whole.pth")
            whole = ["MODEL.WEIGHTS", str(tmp_path / "whole.pth")]
            engine.evaluate(load_config(small_config, [*small_opts, *whole], engine.defaults()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("training", [True, False])
def test_what_its_resnet_would_assert_is_refused_in_a_sentence(run, small_config, small_opts, tmp_path, training):
    from transfer.engines.d2.engine import Detectron2Engine

    engine, half = Detectron2Engine(), ["MODEL.RESNETS.RES2_OUT_CHANNELS", "32"]
    with pytest.raises(
        ConfigError, match="^MODEL.RESNETS.RES2_OUT_CHANNELS: 32, .* to build_any_width_resnet_backbone$"
    ):
        if training:
            run(*half)
        else:
            engine.evaluate(load_config(small_config, [*small_opts, *half], engine.defaults()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("freeze_at", "features"), [(0, ["res4"]), (2, ["res2", "res5"])])
def test_the_resnet_of_any_width_is_detectron2s_in_all_but_its_channels(freeze_at, features):
    """At half the width it has the stock network's names, halved shapes, frozen parts, outputs and strides."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_backbone

    from transfer.engines.d2.engine import Detectron2Engine

    models = []
    for name, width in (("build_resnet_backbone", 64), ("build_any_width_resnet_backbone", 32)):
        cfg = Detectron2Engine().defaults()
        r, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = cfg.MODEL.RESNETS, name, freeze_at
        r.DEPTH, r.NORM, r.OUT_FEATURES, r.STEM_OUT_CHANNELS, r.RES2_OUT_CHANNELS = 34, "BN", features, width, width
        models.append(build_backbone(cfg, ShapeSpec(channels=3)))
    stock, half = models
    assert [(n, p.requires_grad) for n, p in stock.named_parameters()] == [
        (n, p.requires_grad) for n, p in half.named_parameters()
    ]
    assert [(n, type(m)) for n, m in stock.named_modules()] == [(n, type(m)) for n, m in half.named_modules()]
    for a, b in zip(stock.parameters(), half.parameters(), strict=True):
        assert [n // 2 if i < 2 and n != 3 else n for i, n in enumerate(a.shape)] == list(b.shape)
    shapes = {name: (spec.channels // 2, spec.stride) for name, spec in stock.output_shape().items()}
    assert shapes == {name: (spec.channels, spec.stride) for name, spec in half.output_shape().items()}


def test_a_run_leaves_what_it_promises_and_resumes(run, tmp_path):
    torch.save(moco(trunk(18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "trunk.pkl")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "trunk.pkl")]
    result = run(*weights)
    out = tmp_path / "run"
    assert result.engine == "detectron2" and result.seed == 3 and result.iterations == 6
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75", "bbox_unrounded/AP"} <= set(result.metrics)
    assert any("naiveSyncBN" in note for note in result.notes)
    assert load_config(out / "config.yaml").MODEL.RESNETS.NORM == "naiveSyncBN"
    lines = read_metrics(out / "metrics.jsonl")
    assert any(line.get("total_loss", 0) > 0 for line in lines) and "bbox/AP" in lines[-1]
    assert lines[-1]["iteration"] == 5 and [run.done for run in status.runs(out)] == [6]
    assert (out / "predictions_generated_test.json").is_file() and (out / "model_final.pth").is_file()

    with pytest.raises(EngineError, match="holds the checkpoint of an earlier run"):
        run(*weights)
    (out / "result.json").unlink()  # as a kill between training and evaluation leaves it
    again = run(*weights, resume="must")
    assert again.metrics == result.metrics

    (out / "result.json").unlink()  # as a kill in the middle leaves it
    (out / "model_final.pth").unlink()
    (out / "last_checkpoint").write_text("model_0000003.pth")
    assert run(*weights, resume="auto").iterations == 6


def test_asked_to_stop_it_saves_and_continues(run, tmp_path, monkeypatch):
    from transfer.engines.d2.trainer import Trainer

    step = Trainer.run_step

    def asked_in_the_third_iteration(trainer):
        step(trainer)
        if trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "run_step", asked_in_the_third_iteration)
    words = ["SOLVER.CHECKPOINT_PERIOD", "1000"]
    with pytest.raises(Preempted, match="SIGTERM: stopped after 3 of 6 iterations"):
        run(*words)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000002.pth"
    monkeypatch.setattr(Trainer, "run_step", step)
    run(*words, resume="must")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Starting training from iteration 3" in log and "Exception during training" not in log


def test_annotations_that_detectron2_cannot_evaluate(run, generated, tmp_path):
    """No <pose>: Detectron2's evaluator reads it, this project's does not."""
    root = tmp_path / "set"
    shutil.copytree(generated / "scenes", root)
    for path in (root / "Annotations").glob("*.xml"):
        path.write_text(re.sub(r"<pose>.*?</pose>", "", path.read_text()))
    spec = (generated / "voc.yaml").read_text().replace("name: generated", "name: bare")
    (tmp_path / "bare.yaml").write_text(spec.replace("root: scenes", f"root: {root}"))
    result = run(
        "DATASETS.SPECS", f"('{tmp_path}/bare.yaml',)", "DATASETS.TRAIN", "('bare_trainval',)",
        "DATASETS.TEST", "('bare_test',)", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()",
    )  # fmt: skip
    assert "bbox/AP" in result.metrics


@pytest.mark.parametrize("name", ["generated_coco_train"])
def test_a_coco_set(run, generated, name):
    result = run(
        "DATASETS.SPECS", f"('{generated}/coco.yaml',)", "DATASETS.TRAIN", f"('{name}',)",
        "DATASETS.TEST", "('generated_coco_val',)", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()",
    )  # fmt: skip
    assert {"bbox/AP", "bbox/APs"} <= set(result.metrics)


def test_what_cannot_run_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="NUM_CLASSES is 3"):
        run("MODEL.ROI_HEADS.NUM_CLASSES", "3")
    with pytest.raises(EngineError, match="--num-gpus 2, but there are"):
        run(num_gpus=2)
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x04c__builtin__\neval\n.")
    with pytest.raises(CheckpointError, match="which is not data"):
        run("MODEL.WEIGHTS", str(tmp_path / "evil.pkl"))
    torch.save(moco(trunk(50)), tmp_path / "r50.pth.tar")
    convert(tmp_path / "r50.pth.tar", tmp_path / "r50.pkl")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "r50.pkl"), "OUTPUT_DIR", str(tmp_path / "other")]
    with pytest.raises(ConfigError, match="DEPTH: 18, but the weights .resnet50. have 50"):
        run(*weights)
    monkeypatch.setattr("transfer.engines.base.lint_before_training", lambda cfg, names: [])
    with pytest.raises(CheckpointError, match="does not fit this model"):  # the proof after loading needs no linter
        run(*weights)
