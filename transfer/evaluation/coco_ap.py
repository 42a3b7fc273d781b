"""COCO average precision of boxes or masks, with Detectron2's conventions around it.

faster-coco-eval computes it, in a fraction of pycocotools' time (benchmarks/coco_eval.py); the tests hold both, and
Detectron2's evaluator, to the same numbers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from faster_coco_eval import COCO, COCOeval_faster

from pretrain.runtime.collector import without_collection
from transfer.evaluation.predictions import EvaluationError, ImageDetections, check, to_coco_results

log = logging.getLogger(__name__)

NAN = float("nan")
BACKENDS: dict[str, tuple[Any, Any]] = {
    "faster-coco-eval": (COCO, partial(COCOeval_faster, print_function=log.debug)),
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
}


@dataclass(frozen=True)
class COCOResult:
    """Percent; NaN where a number is undefined: no detections at all, or no ground truth of that size or class.

    Attributes:
        AP, AP50, AP75: means over classes with ground truth; AP is also over IoU .50, .55, ..., .95.
        APs, APm, APl: AP of objects below 32 x 32, up to 96 x 96, and larger, in pixels of area.
        per_class: name -> AP.
        curves: name -> (recall, precision) at IoU .5, both (101,) in [0, 1]; absent for a class without ground truth.
    """

    AP: float = NAN
    AP50: float = NAN
    AP75: float = NAN
    APs: float = NAN
    APm: float = NAN
    APl: float = NAN
    per_class: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False)


@without_collection()
def coco_average_precision(
    json_file: str | os.PathLike[str],
    detections: Sequence[ImageDetections],
    iou_type: Literal["bbox", "segm"] = "bbox",
    backend: str = "faster-coco-eval",
) -> COCOResult:
    """AP over all images of an instances json, at most 100 detections per image.

    Args:
        json_file: the ground truth (`DatasetSpec.json_file`); areas and crowd regions are taken from it.
        detections: classes are contiguous, in the order of the json's category ids; an image without an entry has no
            detections.
        iou_type: "segm" compares the masks, which every entry must then have, and sorts sizes by mask area.
        backend: which of `BACKENDS` computes; the numbers are the same.

    Raises:
        EvaluationError: no such json, a json without annotations, an unknown or repeated image, a class number out of
            range, or masks that are asked for and absent.
    """
    if not Path(json_file).is_file():
        raise EvaluationError(f"ground truth '{json_file}' does not exist; check the data set's paths")
    make_truth, make_evaluation = BACKENDS[backend]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = make_truth(str(json_file))
    if "annotations" not in truth.dataset:
        raise EvaluationError(
            f"'{json_file}' has no annotations; a test set of this kind is evaluated by COCO's server"
        )
    category_ids = sorted(truth.getCatIds())
    names = [category["name"] for category in truth.loadCats(category_ids)]
    check(detections, truth.imgs, len(names))

    results = to_coco_results(detections, category_ids)
    if not results:
        return COCOResult(per_class={name: NAN for name in names})
    if iou_type == "segm":
        for result in results:
            if "segmentation" not in result:
                raise EvaluationError(
                    f"mask AP is asked for, but image {result['image_id']!r} has detections without masks"
                )
            del result["bbox"]  # else sizes would be sorted by box area
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = make_evaluation(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area range, detections per image)
    per_class = {name: _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(names)}
    recall, at_50 = np.asarray(evaluation.params.recThrs), precision[0, :, :, 0, -1]  # (101,), (101, class)
    curves = {name: (recall, at_50[:, k]) for k, name in enumerate(names) if at_50[:, k].max(initial=-1) > -1}
    ap, ap50, ap75, small, medium, large = (_percent(value) for value in evaluation.stats[:6])
    return COCOResult(ap, ap50, ap75, small, medium, large, per_class, curves)


def _percent(value: float) -> float:
    """pycocotools says -1 for undefined."""
    return float(value * 100) if value >= 0 else NAN


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(np.mean(defined) * 100) if defined.size else math.nan
