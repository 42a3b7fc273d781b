"""Uses Detectron2's DensePose project: its keys, its predictions, and its evaluator on our ground truth.

This module is imported only where the project is installed; see `adapters.densepose`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from densepose import add_densepose_config
from densepose.converters import ToChartResultConverter
from densepose.evaluation.densepose_coco_evaluation import DensePoseCocoEval, DensePoseEvalMode
from densepose.structures import quantize_densepose_chart_result
from detectron2.structures import Instances
from fvcore.common.config import CfgNode
from pycocotools.coco import COCO

from transfer.data.dataset import Dataset
from transfer.data.densepose import PARTS, RANGES
from transfer.data.densepose_files import Surface, read_surface
from transfer.evaluation.coco import COCOEvaluator
from transfer.evaluation.detections import NOTHING_FOUND, undefined_reasons
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import EvaluationError, ImageDetections

MOST = 20  # detections per image and class that DensePose's AP looks at
_NAMES = ("AP", "AP50", "AP75", "APm", "APl")
_SIZES = {"densepose/APm": "medium", "densepose/APl": "large"}

# DensePose's normalisation: the larger part that each of the 24 belongs to, and mean distances on these, in metres.
_LARGER = np.repeat(range(9), (1, 2, 2, 2, 4, 4, 4, 4, 2))
_MEAN_DISTANCES = np.array([0, 0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150])


def completed(cfg: CfgNode) -> CfgNode:
    """Returns a frozen copy with all of the project's keys: ours as they are, the others at the project's defaults."""
    whole = cfg.clone()
    whole.defrost()
    add_densepose_config(whole)
    whole.MODEL.ROI_DENSEPOSE_HEAD.merge_from_other_cfg(cfg.MODEL.ROI_DENSEPOSE_HEAD)
    whole.freeze()
    return whole


@dataclass(frozen=True)
class DensePoseDetections(ImageDetections):
    """Holds the detections of one image; the surest ones carry their points on the body's surface.

    Attributes:
        surfaces: position of a detection -> what DensePose's evaluator takes: part, U and V for every pixel of the
            detection's box, as bytes. Its AP does not look at the detections that are left out.
    """

    surfaces: Mapping[int, Any] | None = None


def with_surfaces(found: ImageDetections, instances: Instances) -> DensePoseDetections:
    """Adds the surface points of each class's surest detections.

    Args:
        instances: Detectron2's output for the same detections, in the same order, on the CPU.
    """
    surest: list[int] = []
    for c in np.unique(found.classes):
        of_class = np.flatnonzero(found.classes == c)
        surest += of_class[np.argsort(-found.scores[of_class], kind="mergesort")[:MOST]].tolist()
    surfaces = {
        i: quantize_densepose_chart_result(
            ToChartResultConverter.convert(instances.pred_densepose[i], instances.pred_boxes[i])
        )
        for i in surest
    }
    return DensePoseDetections(
        found.image_id, found.boxes, found.scores, found.classes, found.masks, found.keypoints, surfaces
    )


class DensePoseEvaluator(COCOEvaluator):
    """Computes AP of boxes, and DensePose's AP by geodesic point similarity (GPS) with DensePose's own evaluator."""

    def __init__(self, dataset: Dataset):
        super().__init__(dataset)

    def add(self, prediction: ImageDetections) -> None:
        if len(prediction.scores) and not getattr(prediction, "surfaces", None):
            raise EvaluationError(
                f"DensePose AP is asked for, but image {prediction.image_id!r} has detections without points on the "
                "surface: its predictions file has boxes alone; evaluate the weights"
            )
        super().add(prediction)

    def scores(self) -> Scores:
        boxes = super().scores()
        points = dict.fromkeys((f"densepose/{name}" for name in _NAMES), float("nan"))
        if not self._nothing_found():
            points = dict(zip(points, point_ap(self.dataset, self.detections, read_surface()), strict=True))
            sizes = {key: f"no object with points is {words} (by its area)" for key, words in _SIZES.items()}
            undefined = undefined_reasons(points, sizes, "no object has points of DensePose")
        else:
            undefined = undefined_reasons(points, {}, NOTHING_FOUND)
        metrics, reasons = {**points, **boxes.metrics}, {**undefined, **boxes.undefined}
        return replace(boxes, protocol="densepose", metrics=metrics, undefined=reasons)


def point_ap(dataset: Dataset, detections: list[Any], surface: Surface) -> list[float]:
    """Computes AP, AP50, AP75, APm and APl by GPS, in points; NaN where DensePose's evaluator says -1.

    Args:
        detections: one `DensePoseDetections` per image; at least one of them must hold a detection.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _ground_truth(dataset)
        truth.createIndex()
        evaluation = _Evaluation(truth, truth.loadRes(_results(dataset, detections)), surface)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float("nan") if value < 0 else 100 * float(value) for value in evaluation.stats[: len(_NAMES)]]


class _Evaluation(DensePoseCocoEval):
    """Runs DensePose's evaluation with a surface that has already been read."""

    def __init__(self, truth: COCO, found: COCO, surface: Surface):
        super().__init__(truth, found, "densepose", dpEvalMode=DensePoseEvalMode.GPS)
        self._surface = surface

    def _loadGEval(self) -> None:
        surface, parts = self._surface, range(1, PARTS + 1)
        self.PDIST_transform, self.Pdist_matrix = surface.mesh, surface.distances
        self.Part_ids = surface.part
        self.Part_UVs = [surface.uv[:, surface.part == i] for i in parts]
        self.Part_ClosestVertInds = [np.flatnonzero(surface.part == i) + 1 for i in parts]
        self.CoarseParts, self.Mean_Distances = _LARGER, _MEAN_DISTANCES


def _ground_truth(dataset: Dataset) -> dict[str, Any]:
    """Returns a data set as COCO's json, with all ids counted from 1 and the point data that GPS needs."""
    truth = dataset.truth
    rows = {(image, place): row for row, (image, place) in enumerate(zip(truth.image, truth.place, strict=True))}
    images, annotations = [], []
    for i, record in enumerate(dataset.records):
        images.append({"id": i + 1, "height": record["height"], "width": record["width"]})
        for place, annotation in enumerate(record["annotations"]):
            row = rows[i, place]
            annotations.append(
                {
                    "id": row + 1,
                    "image_id": i + 1,
                    "category_id": annotation["category_id"] + 1,
                    "bbox": truth.boxes[row].tolist(),
                    "area": float(truth.areas[row]),
                    "iscrowd": annotation["iscrowd"],
                    **{key: annotation[key] for key in RANGES if key in annotation},
                }
            )
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(dataset.classes)]
    return {"images": images, "annotations": sorted(annotations, key=lambda a: a["id"]), "categories": categories}


def _results(dataset: Dataset, detections: list[DensePoseDetections]) -> list[dict[str, Any]]:
    """Returns the detections that count, in the form that DensePose's evaluator takes."""
    results = []
    for found in detections:
        sizes = found.boxes[:, 2:] - found.boxes[:, :2]
        for i, surface in (found.surfaces or {}).items():
            results.append(
                {
                    "image_id": dataset.order[found.image_id] + 1,
                    "category_id": int(found.classes[i]) + 1,
                    "bbox": [*found.boxes[i, :2].tolist(), *sizes[i].tolist()],
                    "score": float(found.scores[i]),
                    "densepose": surface,
                }
            )
    return results
