"""Implements Pascal VOC's protocols: AP of boxes at ten overlaps, over 11 recalls (voc07) or by area (voc12)."""

from __future__ import annotations

from pathlib import Path

from transfer.evaluation.detections import DetectionEvaluator
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import save_voc_text, voc_text_folder
from transfer.evaluation.voc_ap import voc_average_precision

_YEAR = {"voc07": 2007, "voc12": 2012}


class VOCEvaluator(DetectionEvaluator):
    """Computes VOC AP with Detectron2's rounding, as the papers' numbers have it, and without as bbox_unrounded/."""

    def scores(self) -> Scores:
        (protocol,) = self.dataset.protocols
        args = self.dataset.records, self.detections, self.dataset.classes, _YEAR[protocol]
        metrics: dict[str, float] = {}
        rounded, exact = (voc_average_precision(*args, rounded=rounded) for rounded in (True, False))
        for prefix, found in (("bbox", rounded), ("bbox_unrounded", exact)):
            metrics |= {f"{prefix}/{name}": getattr(found, name) for name in ("AP", "AP50", "AP75")}
        per_class = {c: {f"bbox/{name}": ap for name, ap in row.items()} for c, row in rounded.per_class.items()}
        empty = [name for name, count in rounded.n_objects.items() if not count]
        notes = (
            []
            if self._whole()
            else [
                f"data set '{self.dataset.name}' has coordinates with decimals: detections are not rounded as "
                "Detectron2 rounds them"
            ]
        )
        if empty:
            notes.append(
                f"data set '{self.dataset.name}' has no object that counts of {', '.join(empty)}: AP 0 there, by "
                "Detectron2's rule, which lowers the mean over classes"
            )
        return Scores(protocol, metrics, per_class, rounded.curves, {}, tuple(notes), "bbox/AP50")

    def _whole(self) -> bool:
        return all(v == int(v) for r in self.dataset.records for a in r["annotations"] for v in a["bbox"])

    def save(self, folder: Path) -> None:
        super().save(folder)
        save_voc_text(folder / voc_text_folder(self.dataset.name), self.detections, self.dataset.classes)
