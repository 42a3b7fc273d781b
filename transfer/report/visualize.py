"""Makes pictures from a config or a finished run: training inputs, ground truth, detections, PR curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from fvcore.common.config import CfgNode
from PIL import Image, ImageOps

from pretrain.runtime.config import ConfigError
from pretrain.runtime.pixels import opened
from pretrain.runtime.slug import part
from transfer.data import catalog
from transfer.data.catalog import DatasetSpec, Record
from transfer.data.label_maps import read_labels
from transfer.engines.training_input import TrainingInput
from transfer.evaluation.miou import map_file
from transfer.evaluation.precision_recall import precision_recall
from transfer.evaluation.predictions import ImageDetections, load_coco_json, predictions_file
from transfer.evaluation.protocols import PROTOCOLS
from transfer.report import pictures
from transfer.report.evaluated import box_scores
from transfer.report.figures.gallery import choose, evenly
from transfer.report.pictures import Objects, draw, sheet

COLUMNS = 4
Skeleton = Sequence[tuple[int, int]]


def training_inputs(inputs: Iterable[TrainingInput], spec: DatasetSpec, path: Path) -> None:
    """Draws a sheet of augmented training images with their objects.

    Args:
        spec: spec of the training set, whose classes and skeleton are drawn.
        path: PNG to write.
    """
    names, skeleton = catalog.class_names(spec), _skeleton(spec)
    shown = ((x.image, Objects(x.boxes, x.labels, None, x.masks, x.keypoints, skeleton, x.classes)) for x in inputs)
    _save([draw(image, objects, names) for image, objects in shown], path)


def _skeleton(spec: DatasetSpec) -> Skeleton:
    """Returns the lines between a data set's keypoints; none if it has no keypoints."""
    keypoints = catalog.open_dataset(spec).keypoints
    return () if keypoints is None else keypoints.skeleton


def ground_truth(spec: DatasetSpec, count: int, path: Path) -> None:
    """Draws a sheet of `count` annotated images, evenly spaced in the set's order."""
    names, skeleton = catalog.class_names(spec), _skeleton(spec)
    records = choose(catalog.load(spec), count)
    _save([draw(pixels(record), _annotated(record, skeleton), names) for record in records], path)


def of_run(spec: DatasetSpec, run: Path, count: int, threshold: float, folder: Path) -> list[Path]:
    """Draws what a run kept of its predictions on a test set, into `folder`; returns the files.

    Raises:
        ConfigError: the run kept nothing for this set.
    """
    dataset = catalog.open_dataset(spec)
    if PROTOCOLS[dataset.protocols[0]].maps:
        path = folder / f"maps_{part(spec.name)}.png"
        maps(dataset, run, count, path)
        return [path]
    paths = [folder / f"{what}_{part(spec.name)}.png" for what in ("detections", "precision_recall")]
    detections(spec, run, count, threshold, paths[0])
    if dataset.unannotated:
        return paths[:1]
    curves(spec, run, paths[1])
    return paths


def maps(dataset: catalog.Dataset, run: Path, count: int, path: Path) -> None:
    """Draws a sheet of annotated beside predicted maps, for images evenly spaced among those whose map was kept."""
    kept = [i for i in range(len(dataset.records)) if map_file(run, dataset.name, i).is_file()]
    if not kept:
        raise ConfigError(
            f"'{run}' has no {map_file(run, dataset.name, 0).parent.name}/; give the folder of a run that was "
            f"evaluated on '{dataset.name}'"
        )
    rows = []
    for i in (kept[j] for j in evenly(len(kept), count)):
        record = dataset.records[i]
        shown = _annotated(record), Objects.of_map(read_labels(map_file(run, dataset.name, i)))
        rows.append([draw(pixels(record), objects, dataset.classes) for objects in shown])
    sheet(rows, ["annotated", "predicted"]).save(path)


def detections(spec: DatasetSpec, run: Path, count: int, threshold: float, path: Path) -> None:
    """Draws a sheet of test images: annotated objects beside detections with a score of at least `threshold`.

    Args:
        run: folder of a finished run.

    Raises:
        ConfigError: the run kept no detections on this set.
    """
    found = {d.image_id: d for d in _load(spec, run)}
    names, skeleton = catalog.class_names(spec), _skeleton(spec)
    rows = []
    for record in choose(catalog.load(spec), count):
        image = pixels(record)
        shown = surest(found.get(record["image_id"]), threshold, skeleton)
        rows.append([draw(image, _annotated(record, skeleton), names), draw(image, shown, names)])
    sheet(rows, ["annotated", f"detected, score from {threshold:g}"]).save(path)


def curves(spec: DatasetSpec, run: Path, path: Path) -> None:
    """Draws precision over recall at IoU .5 for every class."""
    found = precision_recall(box_scores(catalog.open_dataset(spec), _load(spec, run)))
    if found is None:
        raise ConfigError(f"no precision and recall of '{spec.name}': nothing was detected, or nothing is annotated")
    pictures.precision_recall(found.curves, found.scores, f"{spec.name}, {found.label} {found.mean_score:.1f}", path)


def evaluated_sets(cfg: CfgNode) -> list[DatasetSpec]:
    return catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)


def _load(spec: DatasetSpec, run: Path) -> list[ImageDetections]:
    path = run / predictions_file(spec.name)
    if not path.is_file():
        raise ConfigError(f"'{run}' has no {path.name}; give the folder of a run that was evaluated on '{spec.name}'")
    return load_coco_json(path, catalog.category_ids(spec))


def _save(pictures: Sequence[Image.Image], path: Path) -> None:
    if not pictures:
        raise ConfigError("there is no image to draw: no image of the set has an object")
    sheet([pictures[i : i + COLUMNS] for i in range(0, len(pictures), COLUMNS)]).save(path)


def pixels(record: Record) -> np.ndarray:
    """Reads an image as (h, w, 3) uint8 RGB, turned upright by its EXIF orientation."""
    with opened(record["file_name"]) as file:
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))


def _annotated(record: Record, skeleton: Skeleton = ()) -> Objects:
    if "sem_seg_file_name" in record:
        return Objects.of_map(read_labels(record["sem_seg_file_name"]))
    objects = [a for a in record["annotations"] if not a.get("iscrowd")]
    boxes = np.array([a["bbox"] for a in objects]).reshape(-1, 4)
    masks = None
    if objects and all("segmentation" in a for a in objects):
        masks = np.array([_mask(a["segmentation"], record) for a in objects])
    points = None
    if objects and all("keypoints" in a for a in objects):
        points = np.array([a["keypoints"] for a in objects]).reshape(len(objects), -1, 3)
    return Objects(boxes, np.array([a["category_id"] for a in objects], int), None, masks, points, skeleton)


def _mask(segmentation: object, record: Record) -> np.ndarray:
    if isinstance(segmentation, list):
        rles = mask_util.frPyObjects(segmentation, record["height"], record["width"])
        segmentation = mask_util.merge(rles)
    return mask_util.decode(segmentation).astype(bool)


def surest(found: ImageDetections | None, threshold: float, skeleton: Skeleton = ()) -> Objects:
    """Returns what to draw of the detections with a score of at least `threshold`."""
    if found is None:
        return Objects(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    keep = np.flatnonzero(found.scores >= threshold)
    masks = None
    if found.masks is not None and len(keep):
        masks = np.array([mask_util.decode(found.masks[int(i)]) for i in keep]).astype(bool)
    points = None if found.keypoints is None else found.keypoints[keep].copy()
    if points is not None:
        points[:, :, 2] = 2  # a detector says where every point is, and how sure it is, not whether it is hidden
    return Objects(found.boxes[keep], found.classes[keep], found.scores[keep], masks, points, skeleton)
