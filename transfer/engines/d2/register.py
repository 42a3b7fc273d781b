"""What stock Detectron2 must be told before it reads our YAMLs: keys, heads, data sets. All by functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from fvcore.common.config import CfgNode

from transfer.config.defaults import add_transfer_config
from transfer.data import catalog
from transfer.data.catalog import DatasetSpec
from transfer.engines.d2.heads import register_heads


def add(cfg: CfgNode) -> None:
    """Adds this project's keys to a `detectron2.config.get_cfg()` and registers its heads."""
    add_transfer_config(cfg)
    register_heads()


def records_for_detectron2(spec: DatasetSpec) -> list[dict[str, Any]]:
    """`catalog.load` with the box mode spelt out, as Detectron2 wants it."""
    records = catalog.load(spec)
    for record in records:
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode.XYXY_ABS
    return records


def register_datasets(names: Sequence[str], spec_files: Sequence[str]) -> list[DatasetSpec]:
    """Registers the named sets that come from spec files (again, if they changed); Detectron2 knows the built-in ones.

    Raises:
        DatasetError: see `catalog.resolve`.
    """
    specs = catalog.resolve(names, spec_files)
    builtin = catalog.builtin_specs()
    for spec in specs:
        if spec.name in DatasetCatalog and builtin.get(spec.name) == spec:
            continue
        if spec.name in DatasetCatalog:
            DatasetCatalog.remove(spec.name)
            MetadataCatalog.remove(spec.name)
        DatasetCatalog.register(spec.name, lambda spec=spec: records_for_detectron2(spec))
        meta = MetadataCatalog.get(spec.name)
        meta.set(thing_classes=list(catalog.class_names(spec)))
        if spec.format == "voc":
            meta.set(dirname=str(spec.root), split=spec.split, year=spec.year, evaluator_type="pascal_voc")
        else:
            contiguous = {original: i for i, original in enumerate(catalog.category_ids(spec))}
            meta.set(
                json_file=str(spec.json_file),
                image_root=str(spec.image_root),
                thing_dataset_id_to_contiguous_id=contiguous,
                evaluator_type="coco",
            )
    return specs
