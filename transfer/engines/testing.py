"""From detections to metrics and files, the same on both engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transfer.data import catalog
from transfer.data.catalog import DatasetSpec, Record
from transfer.evaluation.coco_ap import coco_average_precision
from transfer.evaluation.predictions import ImageDetections, save_coco_json, save_voc_text
from transfer.evaluation.voc_ap import voc_average_precision


def predictions_file(dataset: str) -> str:
    """Name of the file, in a run's folder, that keeps its detections on `dataset` (COCO's results json)."""
    return f"predictions_{dataset}.json"


def voc_text_folder(dataset: str) -> str:
    """Name of the folder that keeps a VOC set's detections as the devkit's text files, one per class."""
    return f"predictions_{dataset}"


def evaluate_detections(
    spec: DatasetSpec, records: Sequence[Record], detections: Sequence[ImageDetections], output_dir: Path | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics in percent ("bbox/AP", "bbox/AP50", ...), and details for `RunResult.extra` (per-class tables).

    VOC sets get VOC AP, rounded as Detectron2 rounds (the papers' numbers were made so) and, under "bbox_unrounded/",
    of the numbers as they are; COCO sets get COCO AP, of masks too ("segm/AP", ...) if there are any. The detections
    are saved if there is a folder for them, those of VOC sets as text files too.
    """
    names = catalog.class_names(spec)
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    if output_dir is not None:
        save_coco_json(output_dir / predictions_file(spec.name), detections, catalog.category_ids(spec))
    if spec.format == "coco":
        assert spec.json_file is not None
        tasks: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm")
        for task in tasks if any(d.masks is not None for d in detections) else tasks[:1]:
            found = coco_average_precision(spec.json_file, detections, task)
            metrics |= {f"{task}/{name}": getattr(found, name) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
            column = "AP" if task == "bbox" else "mask AP"
            for name, ap in found.per_class.items():
                per_class.setdefault(name, {})[column] = ap
        return metrics, {"per_class": per_class, "metric": "COCO"}
    assert spec.year is not None
    if output_dir is not None:
        save_voc_text(output_dir / voc_text_folder(spec.name), detections, names)
    for prefix, rounded in (("bbox", True), ("bbox_unrounded", False)):
        result = voc_average_precision(records, detections, names, spec.year, rounded)
        metrics.update({f"{prefix}/AP": result.AP, f"{prefix}/AP50": result.AP50, f"{prefix}/AP75": result.AP75})
        per_class = per_class or result.per_class
    return metrics, {"per_class": per_class, "metric": "11-point" if spec.year == 2007 else "area"}
