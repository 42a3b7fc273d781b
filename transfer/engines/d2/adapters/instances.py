"""Translates boxes and masks to and from Detectron2's instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BitMasks, PolygonMasks
from fvcore.common.config import CfgNode

from transfer.engines.d2.adapters.adapter import Adapter
from transfer.engines.training_input import TrainingInput
from transfer.evaluation.predictions import ImageDetections


class InstancesAdapter(Adapter):
    """Handles boxes, and masks with MODEL.MASK_ON."""

    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> ImageDetections:
        instances = output["instances"].to("cpu")
        masks = None
        if instances.has("pred_masks"):
            masks = [mask_util.encode(np.asfortranarray(m, dtype=np.uint8)) for m in instances.pred_masks.numpy()]
        return ImageDetections(
            sample["image_id"],
            instances.pred_boxes.tensor.numpy(),
            instances.scores.numpy(),
            instances.pred_classes.numpy(),
            masks,
        )

    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        image, instances = sample["image"].permute(1, 2, 0).numpy(), sample["instances"]
        masks = None
        if instances.has("gt_masks"):
            maps = instances.gt_masks
            if isinstance(maps, PolygonMasks):
                maps = BitMasks.from_polygon_masks(maps, *image.shape[:2])
            masks = maps.tensor.numpy()
        return TrainingInput(
            record["file_name"],
            image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image,
            instances.gt_boxes.tensor.numpy(),
            instances.gt_classes.numpy(),
            masks,
        )
