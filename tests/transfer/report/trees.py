"""A results tree as trials would leave it, with numbers that are made up and easy to recognise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint
from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from transfer.config.defaults import get_cfg
from transfer.config.load import digest
from transfer.data import catalog
from transfer.data.generated import CLASS_NAMES
from transfer.data.spec import Record
from transfer.engines.base import Engine
from transfer.engines.training_input import TrainingInput
from transfer.evaluation.predictions import ImageDetections, predictions_file, save_coco_json
from transfer.trials.aggregate import aggregate
from transfer.trials.experiment import load_experiment
from transfer.trials.output_folders import TRUNK
from transfer.trials.plan import Plan
from transfer.trials.rows import Column, Row
from transfer.trials.run import AGGREGATE_FILE, trial_folder

SUPERVISED = {"name": "supervised IN-1M", "weights": None, "published": {"AP50": 81.3, "AP": 53.5, "AP75": 58.8}}
MOCO = {"name": "MoCo <v2>", "weights": {"pretrain": "moco"}, "published": {"AP50": 81.5, "AP": 55.9, "AP75": 62.6}}
MEANS = {"supervised-in-1m": (81.2, 53.4, 58.9), "moco-v2": (81.6, 56.9, 62.5)}


class NoEngine(Engine):
    """Has a name and defaults; the report must not want more of an engine."""

    name = "torchvision"

    def defaults(self) -> CfgNode:
        return get_cfg()

    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        raise AssertionError("a report trains nothing")

    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        raise AssertionError("a report evaluates nothing")

    def predict(self, cfg: CfgNode, images: Sequence[Record]) -> Iterator[Any]:
        raise AssertionError("a report predicts nothing")

    def training_inputs(self, cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
        raise AssertionError("a report shows no training inputs")


def experiment_file(root: Path, data: Path, trials: int = 5, **changes: Any) -> Path:
    small = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
    opts = ["DATASETS.SPECS", f"('{data}/voc.yaml',)", "DATASETS.TRAIN", "('generated_trainval',)"]
    opts += ["DATASETS.TEST", "('generated_test',)", "MODEL.ROI_HEADS.NUM_CLASSES", str(len(CLASS_NAMES))]
    content = {
        "title": "Fabricated: MoCo, Table 2(b)",
        "source": "He et al., arXiv:1911.05722, Table 2(b), C4, VOC 07+12",
        "output": str(root / "out"),
        "trials": trials,
        "pretrain": {"moco": {"config": str(ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")}},
        "transfer": {"config": str(small), "opts": opts},
        "rows": [SUPERVISED, MOCO],
    } | changes
    root.mkdir(parents=True, exist_ok=True)
    (root / "table.yaml").write_text(yaml.safe_dump(content))
    return root / "table.yaml"


def plan(file: Path, **changes: Any) -> Plan:
    return Plan(load_experiment(file), NoEngine(), ROOT / "tools", **changes)


def fill(plan: Plan, finished: dict[str, int] | None = None, curve_length: int = 30) -> None:
    """Writes what `finished` trials per row (slug -> count; default: all) would leave, pre-training and conversion."""
    e = plan.experiment
    for column, row in e.runs():
        if row.job(column) is None:
            continue
        count = column.trials if finished is None else finished.get(row.slug, column.trials)
        folder = plan.row_folder(column, row)
        results = [trial(plan, row, seed, curve_length, column) for seed in column.seeds[:count]]
        if count == column.trials:
            checkpoint.save_json(aggregate(results).to_json(), folder / AGGREGATE_FILE)
        elif count < column.trials:
            curve(trial_folder(folder, column.seeds[count]), count, curve_length // 2, "total_loss", 2.5, 0.9)
    folder = e.output / "pretrain" / "moco"
    curve(folder, 9, curve_length * 4, "loss", 7.0, 5.2, acc1=45.0)
    RunResult("pretrain", "pretrain", 0, "c0ffee00c0ffee00", notes=["1 process on cpu"]).save(folder)
    sidecar = {
        "arch": "resnet18", "depth": 18, "layout": "moco", "source": "checkpoint_last.pth.tar", "tensors": 120,
        "source_sha256": "ab" * 32, "channel_order": "RGB", "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375], "stride_in_1x1": False,
    }  # fmt: skip
    checkpoint.save_json(sidecar, e.output / "converted" / "moco" / (TRUNK + ".json"))


def row_folder(plan: Plan, row: int) -> Path:
    """Of a row in the first column."""
    return plan.row_folder(plan.experiment.columns[0], plan.experiment.rows[row])


def trial(
    plan: Plan, row: Row, seed: int, curve_length: int, column: Column | None = None, **changes: Any
) -> RunResult:
    """One finished trial of `row`, in the first column or another; `changes` replace fields of its result."""
    column = column or plan.experiment.columns[0]
    job = row.job(column)
    assert job is not None
    folder = trial_folder(plan.row_folder(column, row), seed)
    rng = np.random.default_rng([seed, len(row.slug)])
    cfg = plan.config(job.config, job.opts)
    metrics = {}
    for name, mean, std in zip(("AP50", "AP", "AP75"), MEANS.get(row.slug, (60.0, 30.0, 30.0)), (0.2, 0.2, 0.4)):  # noqa: B905
        metrics[f"bbox/{name}"] = float(rng.normal(mean, std))
    spread = np.linspace(-15, 15, len(CLASS_NAMES)) + rng.normal(0, 1, len(CLASS_NAMES))
    per_class = {
        name: {k: float(min(v + d, 99)) for k, v in metrics.items()}
        for name, d in zip(CLASS_NAMES, spread, strict=True)
    }
    fields: dict[str, Any] = {
        "kind": "train",
        "engine": plan.engine.name,
        "seed": seed,
        "config_digest": digest(cfg),
        "weights_sha256": "deadbeef" * 8 if row.pretrain else None,
        "metrics": metrics,
        "iterations": 24000,
        "seconds": 1200.0 + seed,
        "notes": ["MODEL.RESNETS.NORM is 'SyncBN': with one process that is plain BN over its whole batch"],
        "provenance": {
            "python": "3.12.1",
            "device": "Imaginary GPU",
            "commit": "0123456789abcdef",
            "packages": {"torch": "9.9.9"},
        },
        "extra": {"generated_test": {"per_class": per_class, "protocol": "voc07"}},
    } | changes
    result = RunResult(**fields)
    result.save(folder)
    curve(folder, seed, curve_length, "total_loss", 2.5, 0.4 if row.pretrain else 0.55)
    spec = catalog.resolve(("generated_test",), cfg.DATASETS.SPECS)[0]
    detections = [_detections(record, rng) for record in catalog.load(spec)]
    save_coco_json(folder / predictions_file(spec.name), detections, catalog.category_ids(spec))
    return result


def curve(folder: Path, seed: int, length: int, name: str, first: float, last: float, **rising: float) -> None:
    rng = np.random.default_rng(seed)
    with MetricsWriter(folder, tensorboard=False) as out:
        for i in range(length):
            decay = math.exp(-5 * i / length)
            scalars = {name: last + (first - last) * decay + float(rng.normal(0, 0.05))}
            scalars |= {other: value * (1 - decay) + float(rng.normal(0, 0.5)) for other, value in rising.items()}
            out.write(i * 20, **scalars, lr=0.02)


def _detections(record: dict[str, Any], rng: np.random.Generator) -> ImageDetections:
    """The annotated boxes, shifted a little, and one that is not there."""
    boxes = [np.asarray(a["bbox"]) + rng.normal(0, 3, 4) for a in record["annotations"]] + [np.array([2, 2, 40, 30])]
    classes = [a["category_id"] for a in record["annotations"]] + [0]
    scores = [*rng.uniform(0.55, 1, len(boxes) - 1), 0.31]
    return ImageDetections(record["image_id"], np.asarray(boxes), np.asarray(scores), np.asarray(classes, np.int64))


def broken_json(path: Path) -> None:
    path.write_text(json.dumps({"seeds": 3}))
