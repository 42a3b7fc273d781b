"""Tells stock Detectron2 what it needs to read our YAMLs: keys, heads and data sets. Nothing happens on import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from fvcore.common.config import CfgNode

from transfer.config.defaults import add_transfer_config
from transfer.data.dataset import Dataset
from transfer.engines.d2.adapters import adapter_of
from transfer.engines.d2.adapters.adapter import Adapter
from transfer.engines.d2.heads import register_heads
from transfer.engines.d2.semantic import register_semantic
from transfer.engines.data import check_run_data, open_run_data


def add(cfg: CfgNode) -> None:
    """Adds this project's keys to a `detectron2.config.get_cfg()` and registers its heads."""
    add_transfer_config(cfg)
    register_parts()


def add_data(cfg: CfgNode) -> None:
    """Registers the data sets of a config's DATASETS, those of spec files too, for Detectron2's own trainer.

    They are first read, validated and checked against the config, as this project's engines do.

    Raises:
        ConfigError: no data set is named, or the config's number of classes is not the data's.
        DatasetError: a data set cannot be used.
    """
    check_run_data(cfg, training=True)
    data = open_run_data(cfg, training=True)
    register_datasets((*data.train, *data.test), adapter_of(data.task.name))


def register_parts() -> None:
    """Registers this project's heads and backbones with Detectron2."""
    register_heads()
    register_semantic()


def register_datasets(datasets: Iterable[Dataset], adapter: Adapter) -> None:
    """Registers opened data sets under their names, so that Detectron2 reads no annotations a second time.

    Data sets that Detectron2 knows keep its metadata; their records are the same (`tests/transfer/data`).
    """
    for dataset in datasets:
        known = dataset.name in DatasetCatalog
        if known:
            DatasetCatalog.remove(dataset.name)
        DatasetCatalog.register(
            dataset.name, lambda dataset=dataset: [adapter.record(record) for record in dataset.records]
        )
        wanted = adapter.metadata(dataset)
        kept = MetadataCatalog.get(dataset.name).as_dict() if known else {}
        if known and all(_plain(kept.get(key)) == _plain(value) for key, value in wanted.items()):
            continue
        if known:
            MetadataCatalog.remove(dataset.name)
        MetadataCatalog.get(dataset.name).set(**wanted, evaluator_type=dataset.protocols[0])


def _plain(value: Any) -> Any:
    """Returns lists and tuples in one form, so that they compare equal."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
