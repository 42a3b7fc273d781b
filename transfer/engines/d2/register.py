"""What stock Detectron2 must be told before it reads our YAMLs: keys, heads, data sets. All by functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from fvcore.common.config import CfgNode

from transfer.config.defaults import add_transfer_config
from transfer.data.dataset import Dataset
from transfer.engines.d2.heads import register_heads


def add(cfg: CfgNode) -> None:
    """Adds this project's keys to a `detectron2.config.get_cfg()` and registers its heads."""
    add_transfer_config(cfg)
    register_heads()


def records_for_detectron2(dataset: Dataset) -> list[dict[str, Any]]:
    """Returns the data set's records with the box mode spelt out, as Detectron2 wants it."""
    records = list(dataset.records)
    for record in records:
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode.XYXY_ABS
    return records


def register_datasets(datasets: Iterable[Dataset]) -> None:
    """Registers opened data sets under their names, so that Detectron2 reads no annotations a second time.

    Those that Detectron2 knows keep its metadata; their records are the same (`tests/transfer/data`).
    """
    for dataset in datasets:
        known, points = dataset.name in DatasetCatalog, _keypoints(dataset)
        if known:
            DatasetCatalog.remove(dataset.name)
        DatasetCatalog.register(dataset.name, lambda dataset=dataset: records_for_detectron2(dataset))
        kept = MetadataCatalog.get(dataset.name).as_dict() if known else {}
        same = all(_plain(kept.get(key)) == _plain(value) for key, value in points.items())
        if same and kept.get("thing_classes") == list(dataset.classes):
            continue
        if known:
            MetadataCatalog.remove(dataset.name)
        MetadataCatalog.get(dataset.name).set(
            thing_classes=list(dataset.classes), evaluator_type=dataset.protocols[0], **points
        )


def _keypoints(dataset: Dataset) -> dict[str, Any]:
    """What Detectron2's mapper asks of the keypoints: their names, and those that swap in a mirrored image."""
    if (keypoints := dataset.keypoints) is None:
        return {}
    names, pairs = keypoints.names, keypoints.pairs or ()
    return {"keypoint_names": names, "keypoint_flip_map": tuple((names[a], names[b]) for a, b in pairs)}


def _plain(value: Any) -> Any:
    """Lists and tuples alike."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
