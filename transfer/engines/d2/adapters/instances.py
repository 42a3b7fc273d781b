"""Detectron2's training inputs, as its default mapper makes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.structures import BitMasks, PolygonMasks
from fvcore.common.config import CfgNode

from transfer.engines.d2 import register
from transfer.engines.preview import TrainingInput


def training_inputs(cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
    """The inputs of the first `count` images of a random order that depends on SEED.

    Raises:
        DatasetError: see `register.register_datasets`.
    """
    register.register_datasets(cfg.DATASETS.TRAIN, cfg.DATASETS.SPECS)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    mapper = DatasetMapper(cfg, is_train=True)
    seed = max(cfg.SEED, 0)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    state = np.random.get_state()
    np.random.seed(seed)  # Detectron2 augments by numpy's global generator
    try:
        for index in order[:count]:
            sample = mapper(records[index])
            image, instances = sample["image"].permute(1, 2, 0).numpy(), sample["instances"]
            masks = None
            if instances.has("gt_masks"):
                maps = instances.gt_masks
                if isinstance(maps, PolygonMasks):
                    maps = BitMasks.from_polygon_masks(maps, *image.shape[:2])
                masks = maps.tensor.numpy()
            yield TrainingInput(
                records[index]["file_name"],
                image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image,
                instances.gt_boxes.tensor.numpy(),
                instances.gt_classes.numpy(),
                masks,
            )
    finally:
        np.random.set_state(state)
