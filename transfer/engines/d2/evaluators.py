"""Detectron2's own evaluators, with a collector beside them that keeps the detections and computes the details."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator

from pretrain.runtime import dist
from transfer.data import catalog
from transfer.data.catalog import DatasetSpec
from transfer.engines.base import RunNotes
from transfer.engines.evaluators import evaluate_detections
from transfer.evaluation.predictions import ImageDetections

logger = logging.getLogger(__name__)


class Collector(DatasetEvaluator):
    """Keeps all detections; evaluates them with this project's functions; writes the predictions file."""

    def __init__(self, spec: DatasetSpec, output_dir: Path):
        self.spec, self.output_dir = spec, output_dir
        self.metrics: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self.found: list[ImageDetections] = []

    def reset(self) -> None:
        self.found = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            masks = None
            if instances.has("pred_masks"):
                masks = [mask_util.encode(np.asfortranarray(m, dtype=np.uint8)) for m in instances.pred_masks.numpy()]
            self.found.append(
                ImageDetections(
                    sample["image_id"],
                    instances.pred_boxes.tensor.numpy(),
                    instances.scores.numpy(),
                    instances.pred_classes.numpy(),
                    masks,
                )
            )

    def evaluate(self) -> dict[str, Any]:
        parts = dist.gather_objects(self.found)
        if dist.is_main():
            detections = [d for part in parts for d in part]
            records = catalog.load(self.spec)
            self.metrics, self.details = evaluate_detections(self.spec, records, detections, self.output_dir)
        return {}


class _VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's evaluator, which returns nothing instead of failing on annotations that it cannot read."""

    def __init__(self, dataset_name: str, notes: RunNotes):
        super().__init__(dataset_name)
        self.notes = notes

    def evaluate(self) -> dict[str, Any] | None:
        try:
            return super().evaluate()
        except (AttributeError, ValueError) as error:  # no <pose> or <truncated>, or coordinates that are no integers
            self.notes.add(
                f"Detectron2's VOC evaluator cannot read these annotations ({error}); bbox/* are this project's own, "
                "which equal Detectron2's where both can be computed"
            )
            return {}


def stock_evaluator(spec: DatasetSpec, output_dir: Path, notes: RunNotes, masks: bool) -> DatasetEvaluator:
    """Detectron2's own evaluator of the set's format."""
    if spec.format == "coco":
        tasks = ("bbox", "segm") if masks else ("bbox",)
        return COCOEvaluator(spec.name, tasks=tasks, output_dir=str(output_dir / "inference"))
    return _VOCEvaluator(spec.name, notes)


def merge(ours: Mapping[str, float], theirs: Mapping[str, Mapping[str, float]], notes: RunNotes) -> dict[str, float]:
    """All of our metrics, with Detectron2's numbers wherever it has the same one; a disagreement is noted."""
    merged = dict(ours)
    for task, values in theirs.items():
        for name, value in values.items():
            key = f"{task}/{name}"
            if key in merged and abs(merged[key] - value) > 1e-6:
                notes.add(f"{key}: Detectron2's evaluator says {value:.6f}, this project's {merged[key]:.6f}")
            if key in merged:
                merged[key] = float(value)
    return merged
