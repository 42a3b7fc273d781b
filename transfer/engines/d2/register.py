"""What stock Detectron2 must be told before it reads our YAMLs: keys, heads, data sets. All by functions."""

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
    """Makes the data sets of a config's DATASETS, those of spec files too, known to Detectron2's own trainer.

    They are read, checked and held against the config first, as this project's engines do.

    Raises:
        ConfigError: none is named, or the config's number of classes is not the data's.
        DatasetError: a data set that cannot be used.
    """
    check_run_data(cfg, training=True)
    data = open_run_data(cfg, training=True)
    register_datasets((*data.train, *data.test), adapter_of(data.task.name))


def register_parts() -> None:
    """Makes this project's heads and backbones known to Detectron2."""
    register_heads()
    register_semantic()


def register_datasets(datasets: Iterable[Dataset], adapter: Adapter) -> None:
    """Registers opened data sets under their names, so that Detectron2 reads no annotations a second time.

    Those that Detectron2 knows keep its metadata; their records are the same (`tests/transfer/data`).
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
    """Lists and tuples alike."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
