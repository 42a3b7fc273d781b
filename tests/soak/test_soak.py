"""Runs that are killed again and again, at random, end in the bits of one that was left alone.

SOAK_KILLS is how many kills each part gets (default 3; `reproduce` half of them), SOAK_SEED draws the moments. What is
written is on disk before it gets its name: a folder in memory is quicker.

    SOAK_KILLS=40 python -m pytest -m slow tests/soak --log-cli-level INFO --basetemp /dev/shm/soak
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.encoders import base_encoder
from pretrain.runtime import checkpoint
from pretrain.runtime.log import read_metrics
from tests.architectures import options
from tests.conftest import ROOT
from tests.pretrain.conftest import TINY, write_images
from tests.soak.killing import Part, Tally, soak, tensors

pytestmark = pytest.mark.slow
LOG = logging.getLogger(__name__)
KILLS = int(os.environ.get("SOAK_KILLS", "3"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
TIMES = {"images_per_second", "eta_seconds"}
ARCH = "resnet18_w0.5x"
NETWORK = "R18w0.5x-C4"
LINCLS = ROOT / "configs" / "pretrain" / "lincls_tiny.yaml"
DETECTOR = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"


@pytest.fixture(scope="module")
def total() -> Iterator[Tally]:
    tally = Tally()
    yield tally
    LOG.info("soak: %s", tally)


def finish(part: Part, folder: Path, total: Tally) -> None:
    kills = max(1, KILLS // 2) if part.jobs else KILLS  # whole experiments take longest
    tally = soak(part, folder, kills, SEED)
    total.add(tally)
    assert tally.kills == kills and tally.faults == 0, str(tally)


def scores(file: Path) -> dict[str, Any]:
    result = json.loads(file.read_text())
    return {name: value for name, value in result["metrics"].items() if name not in TIMES}


def classified(run: Path) -> dict[str, Any]:
    """Of a pre-training or a classifier: its last checkpoint, and what it has said of every iteration."""
    state = checkpoint.load(run / "checkpoint_last.pth.tar")
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run / "metrics.jsonl")]
    return dict(tensors(state)) | {"iteration": state["iteration"], "lines": lines}


def detected(run: Path) -> dict[str, Any]:
    """Of a detector: its weights, what it found and the scores."""
    return (
        dict(tensors(checkpoint.load(run / "model_final.pth")))
        | {path.name: path.read_bytes() for path in run.glob("predictions_*.json")}
        | scores(run / "result.json")
    )


def test_pre_training(tmp_path: Path, total: Tally) -> None:
    images = write_images(tmp_path / "images", 100)

    def words(run: Path) -> list[object]:
        opts = ["DATA.TRAIN", images, "OUTPUT_DIR", run, "DATA.NUM_WORKERS", 2, "CHECKPOINT.PERIOD", 3]
        opts += ["SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", 24, "SOLVER.SCHEDULE", "exponential"]
        opts += ["MODEL.ARCH", ARCH]
        return ["--config-file", TINY, "--resume", "auto", *opts]

    finish(Part("pre-training", "train_moco.py", words, classified), tmp_path, total)


@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_classifier(kind: str, tmp_path: Path, generated: Path, total: Tally) -> None:
    weights, network = tmp_path / "moco.pth.tar", base_encoder(ARCH)(num_classes=16)
    state = {f"module.encoder_q.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save({"epoch": 1, "arch": ARCH, "state_dict": state, "optimizer": {}}, weights)

    def words(run: Path) -> list[object]:
        opts = ["MODEL.WEIGHTS", weights, "DATA.TRAIN", generated / "iconic" / "train", "DATA.NUM_WORKERS", 1]
        opts += ["DATA.VAL", generated / "iconic" / "val", "OUTPUT_DIR", run, "AUG.CROP_SIZE", 32, "AUG.RESIZE", 36]
        opts += ["SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 6, "SOLVER.STEPS", (5,), "AUG.TRAIN", True]
        opts += ["CHECKPOINT.PERIOD", 3]
        opts += ["SOLVER.BASE_LR", 0.02, "MODEL.TRUNK", "free"] if kind == "finetune" else []
        return ["--config-file", LINCLS, "--resume", "auto", *opts]

    tool = {"linear": "linear_eval.py", "finetune": "finetune.py"}[kind]
    finish(Part(kind, tool, words, classified), tmp_path, total)


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)])
def test_detector(engine: str, tmp_path: Path, generated: Path, total: Tally) -> None:
    """Detectron2 draws other images after a restart: there only the length and what was found at all are held equal."""

    def words(run: Path) -> list[object]:
        opts = [*options(NETWORK, generated, tmp_path), "SOLVER.MAX_ITER", 8, "DATALOADER.NUM_WORKERS", 1]
        return ["--config-file", DETECTOR, "--engine", engine, "--resume", "auto", *opts, "OUTPUT_DIR", run]

    def finished(run: Path) -> dict[str, Any]:
        result = json.loads((run / "result.json").read_text())
        return {"iterations": result["iterations"], "metrics": sorted(result["metrics"])}

    results = detected if engine == "torchvision" else finished
    finish(Part(engine, "train_net.py", words, results), tmp_path, total)


def test_reproduce(tmp_path: Path, generated: Path, total: Tally) -> None:
    """Data, pre-training, conversion and a trial of each of two rows, two commands at a time."""
    given = options(NETWORK, generated, tmp_path)
    pairs = [p for p in zip(given[::2], given[1::2], strict=True) if p[0] not in ("OUTPUT_DIR", "SEED")]
    opts = {key: value for key, value in pairs} | {"DATASETS.SPECS": "('{data}/voc.yaml',)", "SOLVER.MAX_ITER": "5"}
    trained = ["DATA.TRAIN", "{data}/iconic/train", "SOLVER.EPOCHS", 4, "CHECKPOINT.PERIOD", 3, "MODEL.ARCH", ARCH]
    content = {
        "title": "Soak",
        "source": "none",
        "output": str(tmp_path / "out"),
        "trials": 1,
        "data": {"generated": dict(seed=0, iconic_train=16, iconic_val=8, scenes_trainval=12, scenes_test=6)},
        "pretrain": {"moco": {"config": str(TINY), "opts": trained}},
        "transfer": {"config": str(DETECTOR), "opts": [word for pair in opts.items() for word in pair]},
        "rows": [{"name": "random", "weights": None}, {"name": "MoCo", "weights": {"pretrain": "moco"}}],
    }
    file = tmp_path / "soak.yaml"
    file.write_text(yaml.safe_dump(content))

    def words(run: Path) -> list[object]:
        return [file, "--output-dir", run, "--engine", "torchvision", "--jobs", 2]

    def results(run: Path) -> dict[str, Any]:
        trials = {str(path.parent.relative_to(run)): detected(path.parent) for path in run.glob("rows/**/result.json")}
        found = {f"{trial}: {name}": value for trial, all in trials.items() for name, value in all.items()}
        rows = {
            str(path.relative_to(run)): json.loads(path.read_text())["metrics"] for path in run.rglob("trials.json")
        }
        return found | rows | classified(run / "pretrain" / "moco") | {"trials": len(trials)}

    finish(Part("reproduce", "reproduce.py", words, results, jobs=True), tmp_path, total)
