"""Computes COCO's average precision of boxes, masks or keypoints, with Detectron2's conventions.

faster-coco-eval does the computation, in a fraction of pycocotools' time (benchmarks/coco_eval.py); tests check that
both, and Detectron2's evaluator, give the same numbers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from faster_coco_eval import COCO, COCOeval_faster

from pretrain.runtime.collector import without_collection
from transfer.data.coco_annotations import Truth
from transfer.data.dataset import Dataset
from transfer.evaluation.predictions import EvaluationError, ImageDetections, check, to_coco_results

log = logging.getLogger(__name__)

NAN = float("nan")
IouType = Literal["bbox", "segm", "keypoints"]
BACKENDS: dict[str, tuple[Any, Any]] = {
    "faster-coco-eval": (COCO, partial(COCOeval_faster, print_function=log.debug)),
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
}

_BESIDE_BOX = {"segm": ("segmentation", "mask"), "keypoints": ("keypoints", "keypoint")}  # a result's field, in words
_STATISTICS = {kind: ("AP", "AP50", "AP75", "APs", "APm", "APl") for kind in ("bbox", "segm")} | {
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl")
}  # in the order of the evaluation's


@dataclass(frozen=True)
class COCOResult:
    """Holds AP in percent, NaN where undefined: no detections at all, or no ground truth of that size or class.

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
    dataset: Dataset,
    detections: Sequence[ImageDetections],
    iou_type: IouType = "bbox",
    backend: str = "faster-coco-eval",
    sigmas: Sequence[float] = (),
) -> COCOResult:
    """Computes AP over all images of a data set in COCO's layout, at most 100 detections per image.

    Images, objects and categories are renumbered from 1, since pycocotools takes an annotation with id 0 for no match
    and knows only integer ids.

    Args:
        dataset: the ground truth, with areas and crowd regions as annotated.
        detections: detections with contiguous classes; an image without an entry has none.
        iou_type: "segm" compares the masks, which every entry must then have, and sorts sizes by mask area. "keypoints"
            compares the points by their object keypoint similarity, at most 20 detections per image; objects without
            a labelled point do not count, and there is no APs.
        backend: the one of `BACKENDS` that computes; the numbers are the same.
        sigmas: one value per keypoint.

    Raises:
        EvaluationError: an image is unknown or repeated, a class number is out of range, or masks or keypoints that
            are asked for are absent.
    """
    make_truth, make_evaluation = BACKENDS[backend]
    names = dataset.classes
    check(detections, dataset.order, len(names))
    numbered = [replace(d, image_id=dataset.order[d.image_id] + 1) for d in detections]
    results = to_coco_results(numbered, range(1, len(names) + 1))
    if not results:
        return COCOResult(per_class={name: NAN for name in names})
    field, word = _BESIDE_BOX.get(iou_type, ("bbox", "box"))
    if (without := next((r for r in results if field not in r), None)) is not None:
        image = dataset.records[without["image_id"] - 1]["image_id"]
        raise EvaluationError(f"{word} AP is asked for, but image {image!r} has detections without {word}s")
    if iou_type == "segm":
        for result in results:
            del result["bbox"]  # else sizes would be sorted by box area
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = make_truth()
        truth.dataset = ground_truth(dataset, iou_type)
        truth.createIndex()
        evaluation = make_evaluation(truth, truth.loadRes(results), iou_type)
        if iou_type == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area range, detections per image)
    per_class = {name: _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(names)}
    recall, at_50 = np.asarray(evaluation.params.recThrs), precision[0, :, :, 0, -1]  # (101,), (101, class)
    curves = {name: (recall, at_50[:, k]) for k, name in enumerate(names) if at_50[:, k].max(initial=-1) > -1}
    means = {name: _percent(evaluation.stats[i]) for i, name in enumerate(_STATISTICS[iou_type])}
    return COCOResult(**means, per_class=per_class, curves=curves)


def ground_truth(dataset: Dataset, iou_type: IouType) -> dict[str, Any]:
    """Returns the annotations as an instances json holds them, with images, objects and categories numbered from 1.

    Args:
        iou_type: says what objects have beside their boxes: "keypoints" gives points, "segm" masks, one for each.

    Raises:
        EvaluationError: a mask is asked for and an object has none.
    """
    truth: Truth = dataset.truth
    masks = iou_type == "segm"
    points = truth.keypoints if iou_type == "keypoints" else None
    images, shapes = [], []
    for number, record in enumerate(dataset.records, start=1):
        images.append({"id": number, "height": record["height"], "width": record["width"]})
        shapes.append([a.get("segmentation") for a in record["annotations"]] if masks else [])
    annotations = []
    rows = zip(truth.image, truth.place, truth.category, truth.boxes, truth.areas, truth.crowd, strict=True)
    for number, (image, place, category, box, area, crowd) in enumerate(rows, start=1):
        annotation = {
            "id": number,
            "image_id": int(image) + 1,
            "category_id": int(category) + 1,
            "bbox": box.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        if masks:
            annotation["segmentation"] = shapes[image][place] if place >= 0 else None
            if annotation["segmentation"] is None:
                name = dataset.records[int(image)]["image_id"]
                raise EvaluationError(f"mask AP is asked for, but an object of image {name!r} has no mask")
        if points is not None:
            annotation["keypoints"] = points[number - 1].ravel().tolist()
            annotation["num_keypoints"] = int((points[number - 1, :, 2] > 0).sum())
        annotations.append(annotation)
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.classes, start=1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _percent(value: float) -> float:
    """Turns a share into percent, and pycocotools' -1 for undefined into NaN."""
    return float(value * 100) if value >= 0 else NAN


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(np.mean(defined) * 100) if defined.size else math.nan
