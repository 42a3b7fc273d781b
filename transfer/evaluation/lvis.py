"""Implements LVIS's protocol: AP of boxes and masks over a long tail of classes, at most 300 detections per image.

Images are not annotated exhaustively: a detection of a class counts in an image only if the class is annotated there or
known to be absent, and one that finds nothing is forgiven where not all objects of its class are annotated. APr, APc
and APf are means over rare, common and frequent classes.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from pretrain.runtime.collector import without_collection
from transfer.data.dataset import Dataset
from transfer.data.lvis import MOST, LVISTruth
from transfer.evaluation.coco_ap import ground_truth
from transfer.evaluation.detections import NOTHING_FOUND, DetectionEvaluator, undefined_reasons
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import ImageDetections, to_coco_results

log = logging.getLogger(__name__)

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
GROUPS = {"APr": "rare", "APc": "common", "APf": "frequent"}


class LVISEvaluator(DetectionEvaluator):
    """Computes LVIS AP; see the module for its rules."""

    def scores(self) -> Scores:
        metrics: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {name: {} for name in self.dataset.classes}
        kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if self.masks else ("bbox",)
        for kind in kinds:
            precision = lvis_precision(self.dataset, self.detections, kind)
            metrics |= {f"{kind}/{name}": value for name, value in _summary(self.dataset, precision).items()}
            for i, name in enumerate(self.dataset.classes):
                per_class[name][f"{kind}/AP"] = _percent(precision[:, :, i, 0])
        return Scores("lvis", metrics, per_class, undefined=self._undefined(metrics))

    def _undefined(self, metrics: dict[str, float]) -> dict[str, str]:
        if self._nothing_found():
            return undefined_reasons(metrics, {}, NOTHING_FOUND)
        reasons: dict[str, str] = {}
        for kind in ("bbox", "segm"):
            reasons |= {f"{kind}/{k}": f"no annotated object is {w} (by its area)" for k, w in SIZES.items()}
            reasons |= {f"{kind}/{k}": f"no class with annotated objects is {w}" for k, w in GROUPS.items()}
        return undefined_reasons(metrics, reasons, "no object is annotated")


@without_collection()
def lvis_precision(dataset: Dataset, detections: list[ImageDetections], kind: Literal["bbox", "segm"]) -> np.ndarray:
    """Computes precision over recall with ids counted from 1, the 300 surest detections per image.

    Args:
        kind: "bbox" or "segm".

    Returns:
        (10 IoU, 101 recall, classes, 4 sizes); -1 where a class has no object of that size.
    """
    truth: LVISTruth = dataset.truth
    annotations = ground_truth(dataset, kind)
    for image, absent, partial in zip(annotations["images"], truth.absent, truth.partial, strict=True):
        image["neg_category_ids"] = [i + 1 for i in absent]
        image["not_exhaustive_category_ids"] = [i + 1 for i in partial]
    for category, frequency in zip(annotations["categories"], truth.frequency, strict=True):
        category["frequency"] = frequency
    results = to_coco_results([surest(d, dataset.order[d.image_id] + 1) for d in detections], _from_one(dataset))
    if not results:
        return np.full((10, 101, len(dataset.classes), 4), -1.0)
    for result in results if kind == "segm" else ():
        del result["bbox"]  # else sizes would be sorted by box area
    known = COCO(annotations)
    evaluation = COCOeval_faster(known, known.loadRes(results), kind, print_function=log.debug, lvis_style=True)
    evaluation.params.maxDets = [MOST]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., -1]
    return precision


def surest(d: ImageDetections, number: int) -> ImageDetections:
    """Returns the `MOST` surest detections of an image, under the image id `number`; ties keep their order."""
    order = np.argsort(-d.scores, kind="stable")[:MOST]
    masks = None if d.masks is None else [d.masks[i] for i in order]
    return ImageDetections(number, d.boxes[order], d.scores[order], d.classes[order], masks)


def _from_one(dataset: Dataset) -> range:
    return range(1, len(dataset.classes) + 1)


def _summary(dataset: Dataset, precision: np.ndarray) -> dict[str, float]:
    whole = precision[..., 0]
    found = {"AP": _percent(whole), "AP50": _percent(whole[0]), "AP75": _percent(whole[5])}
    found |= {name: _percent(precision[..., i]) for i, name in enumerate(SIZES, start=1)}
    frequency = np.array(dataset.truth.frequency)
    return found | {name: _percent(whole[:, :, frequency == words[0]]) for name, words in GROUPS.items()}


def _percent(precision: np.ndarray) -> float:
    defined: Any = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")
