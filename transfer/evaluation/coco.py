"""Implements COCO's protocol: AP of boxes, and of masks where the task predicts them."""

from __future__ import annotations

import numpy as np

from transfer.evaluation.coco_ap import IouType, coco_average_precision
from transfer.evaluation.detections import NOTHING_FOUND, DetectionEvaluator, undefined_reasons
from transfer.evaluation.evaluator import Scores

_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_SIZES = {"APs": "small", "APm": "medium", "APl": "large"}


class COCOEvaluator(DetectionEvaluator):
    """Computes COCO AP of at most 100 detections per image, as pycocotools does with ids counted from 1."""

    def scores(self) -> Scores:
        kinds: tuple[IouType, ...] = ("bbox", "segm") if self.masks else ("bbox",)
        found = {kind: coco_average_precision(self.dataset, self.detections, kind) for kind in kinds}
        metrics = {f"{kind}/{name}": float(getattr(found[kind], name)) for kind in kinds for name in _NAMES}
        per_class = {c: {f"{kind}/AP": found[kind].per_class[c] for kind in kinds} for c in self.dataset.classes}
        undefined = self._undefined(metrics)
        return Scores("coco", metrics, per_class, found["bbox"].curves, undefined, curve_metric="bbox/AP50")

    def _undefined(self, metrics: dict[str, float]) -> dict[str, str]:
        sizes = {
            f"{kind}/{name}": f"no annotated object is {words} (by its area in the annotations)"
            for kind in ("bbox", "segm")
            for name, words in _SIZES.items()
        }
        counted = not np.all(self.dataset.truth.crowd)
        if counted and self._nothing_found():
            return undefined_reasons(metrics, {}, NOTHING_FOUND)
        why = "no object is annotated" + ("" if counted else " but crowd regions")
        return undefined_reasons(metrics, sizes if counted else {}, why)
