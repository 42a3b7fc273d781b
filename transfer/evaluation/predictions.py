"""Holds a detector's detections and reads and writes their files: COCO's results json and the VOC devkit's texts.

Boxes are XYXY absolute pixels counted from 0, as in `transfer.data.catalog`; class numbers are contiguous from 0.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.collector import without_collection
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.slug import part, parts
from pretrain.runtime.wording import short
from transfer.data import strict_json
from transfer.data.keypoints import HALF_PIXEL
from transfer.data.segmentation import checked, is_number


class EvaluationError(ExpectedError, ValueError):
    """Says that detections or ground truth cannot be evaluated; the message names the value and the remedy."""


@dataclass(frozen=True)
class ImageDetections:
    """Holds the detections of one image, in any order.

    Attributes:
        image_id: the id in the dataset's records (str in VOC, int in COCO).
        boxes: (n, 4) float, XYXY absolute pixels, 0-based.
        scores: (n,) float, higher is surer.
        classes: (n,) int, contiguous category ids.
        masks: None, or n compressed RLEs of the whole image, {"size": [h, w], "counts": bytes or str}.
        keypoints: None, or (n, k, 3) float: x and y in continuous pixels (half a pixel more than COCO's json), score.

    Raises:
        EvaluationError: shapes do not agree, or a number is not finite.
    """

    image_id: str | int
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: Sequence[Mapping[str, Any]] | None = None
    keypoints: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes = (self.boxes.shape, self.scores.shape, self.classes.shape)
        if shapes != ((n, 4), (n,), (n,)) or (self.masks is not None and len(self.masks) != n):
            masks = "" if self.masks is None else f" and {len(self.masks)} masks"
            raise EvaluationError(
                f"detections of image {self.image_id!r}: boxes {shapes[0]}, scores {shapes[1]}, classes {shapes[2]}"
                f"{masks}; expected (n, 4), (n,) and (n,)"
            )
        if self.keypoints is not None and (self.keypoints.ndim != 3 or self.keypoints.shape[::2] != (n, 3)):
            raise EvaluationError(
                f"detections of image {self.image_id!r}: keypoints {self.keypoints.shape}; expected ({n}, k, 3)"
            )
        if n and not np.issubdtype(self.classes.dtype, np.integer):
            raise EvaluationError(
                f"detections of image {self.image_id!r}: classes are {self.classes.dtype}, not integers"
            )
        numbers = (self.boxes, self.scores, *(() if self.keypoints is None else (self.keypoints,)))
        if not all(np.isfinite(values).all() for values in numbers):
            raise EvaluationError(f"detections of image {self.image_id!r} hold NaN or infinity; did training diverge?")


def predictions_file(dataset: str) -> str:
    """Returns the name of the file in a run's folder that keeps its detections on `dataset` (COCO's results json)."""
    return f"predictions_{part(dataset)}.json"


def voc_text_folder(dataset: str) -> str:
    """Returns the name of the folder that keeps a VOC set's detections as the devkit's text files, one per class."""
    return f"predictions_{part(dataset)}"


def voc_text_files(names: Sequence[str]) -> list[str]:
    """Returns the names of the classes' files: the devkit's, if the class's name can be part of a file name."""
    return [f"comp4_det_{text}.txt" for text in parts(names)]


def check(detections: Sequence[ImageDetections], image_ids: Iterable[str | int], n_classes: int) -> None:
    """Raises EvaluationError if an image is not in the dataset or comes twice, or a class number is out of range."""
    known = set(image_ids)
    seen: set[str | int] = set()
    for d in detections:
        if d.image_id not in known:
            example = next(iter(known), None)
            raise EvaluationError(
                f"detections of image {d.image_id!r}, which the dataset lacks; it has e.g. {example!r}"
            )
        if d.image_id in seen:
            raise EvaluationError(f"two sets of detections for image {d.image_id!r}; evaluate each image once")
        seen.add(d.image_id)
        if d.classes.size and not 0 <= d.classes.min() <= d.classes.max() < n_classes:
            bad = int(d.classes.max()) if d.classes.max() >= n_classes else int(d.classes.min())
            raise EvaluationError(
                f"image {d.image_id!r}: class {bad} is out of range; the dataset has {n_classes}, numbered from 0"
            )


def to_coco_results(detections: Sequence[ImageDetections], category_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """Makes COCO's results list: image_id, category_id, bbox (XYWH), score, and segmentation and keypoints, if any.

    Args:
        category_ids: contiguous id -> the id in the file (`catalog.category_ids`).
    """
    results = []
    for d in detections:
        boxes = d.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        for i, (box, score, cls) in enumerate(zip(boxes.tolist(), d.scores.tolist(), d.classes.tolist(), strict=True)):
            result = {"image_id": d.image_id, "category_id": category_ids[cls], "bbox": box, "score": score}
            if d.masks is not None:
                rle, counts = d.masks[i], d.masks[i]["counts"]
                text = counts.decode() if isinstance(counts, bytes) else counts
                result["segmentation"] = {"size": list(rle["size"]), "counts": text}
            if d.keypoints is not None:
                shift = np.array([HALF_PIXEL, HALF_PIXEL, 0.0])
                result["keypoints"] = (d.keypoints[i].astype(np.float64) - shift).ravel().tolist()
            results.append(result)
    return results


@without_collection()
def save_coco_json(
    path: str | os.PathLike[str], detections: Sequence[ImageDetections], category_ids: Sequence[int | str]
) -> None:
    """Writes COCO's results json, atomically. Widths are taken in float64, so that float32 boxes survive the file."""
    exact = [replace(d, boxes=d.boxes.astype(np.float64)) for d in detections]
    with atomic_write(path, "w") as f:
        json.dump(to_coco_results(exact, category_ids), f)


@without_collection()
def load_coco_json(path: str | os.PathLike[str], category_ids: Sequence[int | str]) -> list[ImageDetections]:
    """Reads COCO's results json; images without detections are not in such a file.

    Numbers are float32 where that holds them exactly, as in files that a run has written, else float64.

    Raises:
        EvaluationError: there is no such file, it is not a results list, a category id is not among `category_ids`,
            or a value is of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise EvaluationError(f"predictions '{path}' do not exist; a run leaves them in its OUTPUT_DIR")
    results = strict_json.read(path, EvaluationError)
    if not isinstance(results, list):
        raise EvaluationError(f"'{path}' is no COCO results json: a {type(results).__name__}, not a list of detections")
    contiguous = {cat_id: i for i, cat_id in enumerate(category_ids)}
    by_image: dict[str | int, list[dict[str, Any]]] = defaultdict(list)
    for number, result in enumerate(results):
        if fault := _result_fault(result, contiguous):
            raise EvaluationError(f"'{path}': detection {number}: {fault}")
        if ("segmentation" in result) != ("segmentation" in results[0]):
            raise EvaluationError(f"'{path}': some detections have masks and others, such as number {number}, do not")
        if len(result.get("keypoints", ())) != len(results[0].get("keypoints", ())):
            raise EvaluationError(
                f"'{path}': detections have different numbers of keypoints, such as number {number} "
                f"{len(result.get('keypoints', ())) // 3} and the first {len(results[0].get('keypoints', ())) // 3}"
            )
        by_image[result["image_id"]].append(result)
    detections = []
    for image_id, found in by_image.items():
        boxes = np.array([r["bbox"] for r in found], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        detections.append(
            ImageDetections(
                image_id,
                _as_written(boxes),
                _as_written(np.array([r["score"] for r in found], np.float64)),
                np.array([contiguous[r["category_id"]] for r in found], np.int64),
                [r["segmentation"] for r in found] if all("segmentation" in r for r in found) else None,
                _keypoints([r["keypoints"] for r in found]) if found[0].get("keypoints") else None,
            )
        )
    return detections


def _keypoints(lists: Sequence[Sequence[float]]) -> np.ndarray:
    """Turns the flat lists of a results json into (n, k, 3) in continuous pixels."""
    points = np.array(lists, np.float64).reshape(len(lists), -1, 3)
    points[:, :, :2] += HALF_PIXEL
    return _as_written(points)


def _as_written(values: np.ndarray) -> np.ndarray:
    """Returns float64 values as float32 if that loses nothing."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), values) else values


def _result_fault(result: Any, category_ids: Mapping[Any, int]) -> str:
    """Returns what is wrong with one entry of a results json; empty if nothing is."""
    if not isinstance(result, dict):
        return f"{short(result)} is no object with keys"
    if absent := [key for key in ("image_id", "category_id", "bbox", "score") if key not in result]:
        return f"'{absent[0]}' is missing"
    image, category, box, score = (result[key] for key in ("image_id", "category_id", "bbox", "score"))
    if isinstance(image, (list, dict, bool)) or image is None:
        return f"image_id {short(image)} is no number and no string"
    if isinstance(category, (list, dict, bool)) or category not in category_ids:
        return f"category_id {short(category)} is not among the dataset's"
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return f"bbox {short(box)} is not [x, y, width, height] in finite numbers"
    if not is_number(score):
        return f"score {short(score)} is no finite number"
    points = result.get("keypoints", [])
    if not (isinstance(points, list) and len(points) % 3 == 0 and all(map(is_number, points))):
        return f"keypoints {short(points)} are not [x, y, score, ...] in finite numbers"
    if "segmentation" not in result:
        return ""
    mask = result["segmentation"]
    size = mask.get("size") if isinstance(mask, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and isinstance(mask.get("counts"), str)):
        return f"segmentation {short(mask)} is no compressed RLE {{'size': [height, width], 'counts': text}}"
    return checked(mask, *size)[1] or ""


def save_voc_text(folder: str | os.PathLike[str], detections: Sequence[ImageDetections], names: Sequence[str]) -> None:
    """Writes `comp4_det_<class>.txt` for every class, atomically: lines `id score xmin ymin xmax ymax`.

    Coordinates count from 1 and are rounded to a tenth, scores to three decimals, as the VOC devkit reads them.
    """
    lines: list[list[str]] = [[] for _ in names]
    for d in detections:
        boxes = d.boxes.copy()
        boxes[:, :2] += 1
        for (x0, y0, x1, y1), score, cls in zip(boxes.tolist(), d.scores.tolist(), d.classes.tolist(), strict=True):
            lines[cls].append(f"{d.image_id} {score:.3f} {x0:.1f} {y0:.1f} {x1:.1f} {y1:.1f}\n")
    for name, text in zip(voc_text_files(names), lines, strict=True):
        with atomic_write(Path(folder) / name) as f:
            f.write("".join(text).encode())


def load_voc_text(folder: str | os.PathLike[str], names: Sequence[str]) -> list[ImageDetections]:
    """Reads what `save_voc_text` wrote, with its rounding; image ids are strings.

    Raises:
        EvaluationError: the file of a class is missing, or a line does not have six words.
    """
    by_image: dict[str, list[tuple[int, list[float]]]] = defaultdict(list)
    for cls, name in enumerate(voc_text_files(names)):
        path = Path(folder) / name
        if not path.is_file():
            raise EvaluationError(f"'{path}' does not exist; expected one file per class")
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise EvaluationError(f"'{path}' is not in UTF-8 (byte {error.start}); save it in that encoding") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                image_id, *values = line.strip().rsplit(None, 5)  # an id may hold spaces
                score, x0, y0, x1, y1 = map(float, values)
            except ValueError:
                raise EvaluationError(f"'{path}' line {number}: expected 'id score xmin ymin xmax ymax'") from None
            by_image[image_id].append((cls, [score, x0 - 1, y0 - 1, x1, y1]))
    detections = []
    for image_id, found in by_image.items():
        table = np.array([values for _, values in found])
        classes = np.array([cls for cls, _ in found], np.int64)
        detections.append(ImageDetections(image_id, table[:, 1:], table[:, 0], classes))
    return detections
