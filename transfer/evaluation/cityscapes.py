"""Implements Cityscapes' protocol for instances: AP of masks over the eight classes of things."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util

from transfer.data.cityscapes import VOID, read_ids
from transfer.data.segmentation import as_rle
from transfer.evaluation.cityscapes_ap import SMALLEST, Found, Truth, average_precision
from transfer.evaluation.detections import NOTHING_FOUND, DetectionEvaluator, undefined_reasons
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import ImageDetections


class CityscapesEvaluator(DetectionEvaluator):
    """Computes Cityscapes' AP of masks; see `cityscapes_ap` for its rules."""

    def scores(self) -> Scores:
        by_image = {d.image_id: d for d in self.detections}
        images = [self._image(i, by_image.get(image_id)) for image_id, i in self.dataset.order.items()]
        ap = 100 * average_precision(images, len(self.dataset.classes))
        metrics = {"segm/AP": _mean(ap), "segm/AP50": _mean(ap[:, 0])}
        per_class = {
            name: {"segm/AP": _mean(ap[c]), "segm/AP50": float(ap[c, 0])} for c, name in enumerate(self.dataset.classes)
        }
        why = f"no object of {SMALLEST} pixels or more is annotated"
        if not np.isnan(ap).all() and self._nothing_found():
            why = NOTHING_FOUND
        return Scores("cityscapes", metrics, per_class, undefined=undefined_reasons(metrics, {}, why))

    def _image(self, position: int, detections: ImageDetections | None) -> tuple[list[Truth], list[Found]]:
        """Returns the objects and the predictions of one image, with the pixels that they share."""
        record = self.dataset.records[position]
        height, width = record["height"], record["width"]
        rles = [as_rle(a["segmentation"], height, width) for a in record["annotations"]]
        truths = [
            Truth(a["category_id"], int(mask_util.area(rle)), bool(a["iscrowd"]))
            for a, rle in zip(record["annotations"], rles, strict=True)
        ]
        if detections is None or not len(detections.scores):
            return truths, []
        assert detections.masks is not None  # add
        ids = read_ids(self.dataset.truth[position])
        void = mask_util.encode(np.asfortranarray(np.isin(ids, VOID), dtype=np.uint8))
        found = []
        for mask, score, category in zip(detections.masks, detections.scores, detections.classes, strict=True):
            pixels = int(mask_util.area(mask))
            if not pixels:
                continue
            one = Found(int(category), float(score), pixels, _shared(mask, void))
            one.shared = {
                t: pixels
                for t, truth in enumerate(truths)
                if truth.category == category and (pixels := _shared(mask, rles[t]))
            }
            found.append(one)
        return truths, found


def _shared(a: object, b: object) -> int:
    """Returns the number of pixels that two masks have in common."""
    return int(mask_util.area(mask_util.merge([a, b], intersect=True)))


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
