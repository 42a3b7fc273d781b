"""Implements the protocol of maps of classes: IoU of every class and its mean, from one confusion matrix.

Shape shorthand: K classes; (H, W) size of an image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.runtime.checkpoint import atomic_write, save_json
from pretrain.runtime.slug import part
from transfer.data.dataset import Dataset
from transfer.data.label_maps import read_labels
from transfer.evaluation.evaluator import Evaluator, Scores
from transfer.evaluation.predictions import EvaluationError

KEPT = 24  # images, the first of a set, whose predicted maps are saved


@dataclass(frozen=True)
class Map:
    """Holds the prediction for one image: `classes` (H, W), integers in [0, K), at the image's original size."""

    image_id: str | int
    classes: np.ndarray


class MIoUEvaluator(Evaluator):
    """Computes IoU per class as Detectron2's SemSegEvaluator does; ignored pixels count nowhere.

    `confusion[i, j]`, (K, K) int64, counts the pixels that are predicted as i and labelled as j.
    """

    def __init__(self, dataset: Dataset):
        super().__init__()
        self.dataset = dataset
        K = len(dataset.classes)
        self.confusion = np.zeros((K, K), np.int64)
        self.kept: dict[str | int, np.ndarray] = {}  # image id -> (H, W) uint8
        self._files = [(r["sem_seg_file_name"], (r["height"], r["width"])) for r in dataset.records]

    def add(self, prediction: Map) -> None:
        self._once(prediction.image_id, self.dataset.order)
        position, K = self.dataset.order[prediction.image_id], len(self.dataset.classes)
        file, size = self._files[position]
        found = np.asarray(prediction.classes)
        if found.shape != size:
            raise EvaluationError(
                f"image {prediction.image_id!r}: a map of {'x'.join(map(str, found.shape[::-1]))}, but the image is "
                f"{size[1]}x{size[0]} (width x height)"
            )
        if not 0 <= found.min() <= found.max() < K:
            bad = int(found.max()) if found.max() >= K else int(found.min())
            raise EvaluationError(
                f"image {prediction.image_id!r}: class {bad} is out of range; the dataset has {K}, numbered from 0"
            )
        truth = read_labels(file)
        counts = truth != self.dataset.truth.ignore_label
        pairs = K * found[counts].astype(np.int64) + truth[counts]
        self.confusion += np.bincount(pairs, minlength=K * K).reshape(K, K)
        if position < KEPT:
            self.kept[prediction.image_id] = found.astype(np.uint8)

    def state(self) -> dict[str, Any]:
        return {"confusion": self.confusion, "seen": self._seen, "kept": self.kept}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        confusion, seen, kept = np.zeros_like(self.confusion), set[str | int](), dict[str | int, np.ndarray]()
        for state in states:
            if twice := seen & state["seen"]:
                raise EvaluationError(f"two sets of predictions for image {min(map(str, twice))!r}; evaluate it once")
            confusion += state["confusion"]
            seen |= state["seen"]
            kept |= state["kept"]
        self.confusion, self._seen, self.kept = confusion, seen, kept

    def scores(self) -> Scores:
        """Returns the scores; means are over classes with a labelled pixel, and a class without one has IoU NaN."""
        right = self.confusion.diagonal().astype(float)
        labelled, predicted = self.confusion.sum(0).astype(float), self.confusion.sum(1).astype(float)
        there = labelled > 0
        with np.errstate(invalid="ignore"):
            iou = np.where(there, right / (labelled + predicted - right), np.nan)
            accuracy = np.where(there, right / labelled, np.nan)
        if not there.any():
            nothing = dict.fromkeys((f"sem_seg/{m}" for m in ("mIoU", "fwIoU", "mACC", "pACC")), np.nan)
            return Scores("miou", nothing, undefined=dict.fromkeys(nothing, "no pixel is labelled"))
        metrics = {
            "sem_seg/mIoU": iou[there].mean(),
            "sem_seg/fwIoU": (iou[there] * labelled[there]).sum() / labelled.sum(),
            "sem_seg/mACC": accuracy[there].mean(),
            "sem_seg/pACC": right.sum() / labelled.sum(),
        }
        per_class = {name: {"sem_seg/mIoU": float(100 * v)} for name, v in zip(self.dataset.classes, iou, strict=True)}
        absent = [name for name, here in zip(self.dataset.classes, there, strict=True) if not here]
        notes = (f"data set '{self.dataset.name}' has no pixel of {', '.join(absent)}: not in the mean IoU",)
        return Scores(
            "miou", {k: float(100 * v) for k, v in metrics.items()}, per_class, notes=notes if absent else ()
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Writes the confusion matrix, and the predicted maps of the data set's first images as index PNGs."""
        matrix = {"classes": list(self.dataset.classes), "rows": "predicted", "confusion": self.confusion.tolist()}
        save_json(matrix, folder / confusion_file(self.dataset.name))
        for image_id, found in self.kept.items():
            path = map_file(folder, self.dataset.name, self.dataset.order[image_id])
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as f:
                Image.fromarray(found).save(f, "PNG")


def confusion_file(dataset: str) -> str:
    return f"confusion_{part(dataset)}.json"


def map_file(folder: Path, dataset: str, position: int) -> Path:
    """Returns the file in a run's folder that holds the predicted map of the image at a position of the data set."""
    return folder / f"maps_{part(dataset)}" / f"{position:06d}.png"
