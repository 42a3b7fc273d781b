"""Keeps what reports show of a trial's detections on a test set in a small file beside them.

Without it a table of 25 trials would read two million detections to count what they find. The file holds tensors
(safetensors) and names what it was made from; a summary of other detections or annotations is not read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.provenance import file_sha256
from pretrain.runtime.slug import part
from transfer.data.dataset import Dataset
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.objects_found import finders, objects, surest
from transfer.evaluation.precision_recall import RECALLS, PrecisionRecall, precision_recall
from transfer.evaluation.predictions import ImageDetections, predictions_file

logger = logging.getLogger(__name__)

VERSION = "1"


@dataclass(frozen=True)
class TrialSummary:
    """Holds what reports show of one trial on one test set.

    Attributes:
        objects: (images,) float, number of objects found in each image, in the data set's order; see `objects_found`.
        surest: image id -> as many of its surest detections as the image has objects, surest first, without masks;
            images without detections are left out.
        curves: sampled precision over recall; None if the protocol has none.
    """

    objects: np.ndarray
    surest: Mapping[str | int, ImageDetections]
    curves: PrecisionRecall | None


def summary_file(dataset: str) -> str:
    """Returns the name of the file in a run's folder that keeps the summary of its detections on `dataset`."""
    return f"summary_{part(dataset)}.safetensors"


def summary(dataset: Dataset, detections: Sequence[ImageDetections], scores: Scores) -> TrialSummary:
    """Returns what reports show of detections.

    Args:
        detections: at most one entry per image of the data set.
        scores: the detections' scores by the data set's protocol.
    """
    by_image = {d.image_id: d for d in detections}
    counts, kept = np.zeros(len(dataset.records)), {}
    for i, record in enumerate(dataset.records):
        if (found := by_image.get(record["image_id"])) is None or not objects(record):
            continue
        counts[i] = len(finders(record, found))
        if (chosen := surest(found, len(objects(record)))).size:
            points = None if found.keypoints is None else found.keypoints[chosen]
            kept[found.image_id] = ImageDetections(
                found.image_id, found.boxes[chosen], found.scores[chosen], found.classes[chosen], keypoints=points
            )
    return TrialSummary(counts, kept, precision_recall(scores))


def save(folder: Path, dataset: Dataset, found: TrialSummary) -> None:
    """Writes a summary atomically beside its detections, unless the annotations have disappeared meanwhile."""
    try:
        made_of = _made_of(folder, dataset)
    except (ExpectedError, OSError) as error:  # a finished training is not lost for that
        logger.warning("reports will read the detections on '%s' anew: %s", dataset.name, error)
        return
    per_image = [found.surest.get(record["image_id"]) for record in dataset.records]
    kept = [d for d in per_image if d is not None]
    arrays = {"objects": found.objects, "counts": np.array([0 if d is None else len(d.scores) for d in per_image])}
    if kept:
        for name in ("boxes", "scores", "classes"):
            arrays[name] = np.concatenate([getattr(d, name) for d in kept])
        if kept[0].keypoints is not None:
            arrays["keypoints"] = np.concatenate([d.keypoints for d in kept if d.keypoints is not None])
    words: dict[str, Any] = {}
    if found.curves is not None:
        sampled = found.curves.sampled()
        arrays["curves"] = np.array(list(sampled.values()))
        words = {
            "label": found.curves.label,
            "mean_score": found.curves.mean_score,
            "scores": [(name, found.curves.scores[name]) for name in sampled],
        }
    content = to_bytes({n: np.ascontiguousarray(a) for n, a in arrays.items()}, made_of | {"curves": json.dumps(words)})
    with atomic_write(folder / summary_file(dataset.name)) as f:
        f.write(content)


def load(folder: Path, dataset: Dataset) -> TrialSummary | None:
    """Reads what `save` wrote; None if it is missing, damaged, or made from other detections or annotations."""
    path = folder / summary_file(dataset.name)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as f:
            said = f.metadata() or {}
            if not _made_of(folder, dataset).items() <= said.items():
                return None
            arrays = {name: f.get_tensor(name) for name in f.keys()}
        return _checked(arrays, json.loads(said["curves"]), dataset)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        logger.warning("'%s' is damaged and not read: %s: %s", path, type(error).__name__, error)
        return None


def _made_of(folder: Path, dataset: Dataset) -> dict[str, str]:
    detections = file_sha256(folder / predictions_file(dataset.name))
    return {"version": VERSION, "detections": detections, "annotations": dataset.annotation_digest}


def _checked(arrays: Mapping[str, np.ndarray], words: Mapping[str, Any], dataset: Dataset) -> TrialSummary:
    """Puts a file's arrays together into a summary of this data set, and raises if they cannot be one."""
    found, counts, images = arrays["objects"], arrays["counts"], len(dataset.records)
    total = int(counts.sum())
    classes = arrays.get("classes", np.zeros(0, np.int64))
    if found.shape != (images,) or counts.shape != (images,) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"it is of {found.shape} and {counts.shape} images, and there are {images}")
    kept: dict[str, Any] = {name: a for name, a in arrays.items() if name in _PER_DETECTION}
    if ((counts < 0) | (counts > total)).any() or any(len(a) != total for a in kept.values()):
        raise ValueError(f"its arrays do not hold {total} detections")
    if any(not np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("a number in it is not finite")
    if total and not 0 <= classes.min() <= classes.max() < len(dataset.classes):
        raise ValueError(f"a class in it is not one of {len(dataset.classes)}")
    chosen = _Surest(kept, np.concatenate([[0], counts.cumsum(dtype=np.int64)]), dataset)
    for image_id in islice(chosen, 1):
        chosen[image_id]  # of arrays whose shapes or types are no detections' it cannot be made
    return TrialSummary(found.astype(np.float64), chosen, _curves(arrays["curves"], words) if words else None)


_PER_DETECTION = ("boxes", "scores", "classes", "keypoints")


class _Surest(Mapping[str | int, ImageDetections]):
    """Maps image ids to detections, each made only when asked for, since a report shows those of a few images."""

    def __init__(self, arrays: Mapping[str, Any], ends: np.ndarray, dataset: Dataset):
        self.arrays, self.ends, self.dataset = arrays, ends, dataset

    def __getitem__(self, image_id: str | int) -> ImageDetections:
        at = self.dataset.order[image_id]
        part = slice(*self.ends[at : at + 2])
        if part.start == part.stop:
            raise KeyError(image_id)
        own = {name: a[part] for name, a in self.arrays.items()}
        return ImageDetections(image_id, **own)

    def __iter__(self) -> Iterator[str | int]:
        return (image_id for image_id, at in self.dataset.order.items() if self.ends[at] < self.ends[at + 1])

    def __len__(self) -> int:
        return int((np.diff(self.ends) > 0).sum())


def _curves(sampled: np.ndarray, words: Mapping[str, Any]) -> PrecisionRecall:
    scores = {str(name): float(score) for name, score in words["scores"]}
    if sampled.shape != (len(scores), len(RECALLS)) or not ((0 <= sampled) & (sampled <= 1)).all():
        raise ValueError(f"its curves are {sampled.shape} of {len(scores)} classes, or not within 0 and 1")
    curves = {name: (RECALLS, own) for name, own in zip(scores, sampled, strict=True)}
    return PrecisionRecall(str(words["label"]), float(words["mean_score"]), scores, curves)
