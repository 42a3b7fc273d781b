"""Translates maps of classes to and from what Detectron2's SemanticSegmentor takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode

from transfer.data.dataset import Dataset
from transfer.engines.d2.adapters.adapter import Adapter
from transfer.engines.d2.semantic import CropMapper, TestMapper
from transfer.engines.training_input import TrainingInput
from transfer.evaluation.miou import Map


class SemanticAdapter(Adapter):
    """Handles semantic segmentation: one class per pixel."""

    def mapper(self, cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return CropMapper(cfg) if is_train else TestMapper(cfg, is_train=False)

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in record.items() if key != "annotations"}  # else it would count as empty

    def metadata(self, dataset: Dataset) -> dict[str, Any]:
        return {"stuff_classes": list(dataset.classes), "ignore_label": dataset.truth.ignore_label}

    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> Map:
        return Map(sample["image_id"], output["sem_seg"].argmax(dim=0).cpu().numpy())

    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        image = sample["image"].permute(1, 2, 0).numpy()
        return TrainingInput.of_map(
            record["file_name"], image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image, sample["sem_seg"].numpy()
        )
