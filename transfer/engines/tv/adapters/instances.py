"""The torchvision engine's training inputs, as `engine` feeds them to the detector."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from fvcore.common.config import CfgNode

from pretrain.runtime.seed import derive
from transfer.data import catalog
from transfer.engines.preview import TrainingInput
from transfer.engines.tv import data
from transfer.engines.tv.engine import train_samples
from transfer.engines.tv.masks import Bitmaps, bitmap


def training_inputs(cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
    """The first `count` inputs of a training with this config and SEED.

    Raises:
        ConfigError, DatasetError: what keeps the training from starting.
    """
    seed = max(cfg.SEED, 0)
    samples = train_samples(cfg, catalog.resolve(cfg.DATASETS.TRAIN, cfg.DATASETS.SPECS), seed)
    for position, index in islice(data.index_stream(len(samples.records), derive(seed, 0)), count):
        sample = samples[position, index]
        image = sample["image"].permute(1, 2, 0).numpy()
        size = image.shape[:2]
        masks = sample.get("masks")
        if isinstance(masks, Bitmaps):
            maps = masks.maps.numpy()
        elif masks is not None:
            maps = np.array([bitmap(polygons, size) for polygons in masks.objects], dtype=bool).reshape(-1, *size)
        yield TrainingInput(
            samples.records[index]["file_name"],
            image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image,
            sample["boxes"].numpy(),
            sample["labels"].numpy(),
            None if masks is None else maps,
        )
