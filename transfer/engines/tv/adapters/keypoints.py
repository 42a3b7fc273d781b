"""Runs Mask R-CNN's keypoint version on the torchvision engine: instances with points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fvcore.common.config import CfgNode

from transfer.data.dataset import Dataset
from transfer.engines.training_input import TrainingInput
from transfer.engines.tv.adapters.instances import InstancesAdapter
from transfer.evaluation.predictions import ImageDetections
from transfer.tasks.keypoints import labelled_points

logger = logging.getLogger(__name__)


class KeypointsAdapter(InstancesAdapter):
    """Handles the detector of `instances.build_detector` with MODEL.KEYPOINT_ON."""

    def chosen(self, cfg: CfgNode, datasets: Sequence[Dataset]) -> list[list[int]]:
        """Returns the positions of images with MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE labelled points."""
        least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        with_objects = super().chosen(cfg, datasets)
        enough = [
            [i for i in which if labelled_points(dataset.records[i]) >= least]
            for dataset, which in zip(datasets, with_objects, strict=True)
        ]
        logger.info("of them with %d labelled keypoints or more: %d", least, sum(map(len, enough)))
        return enough

    def flipped_keypoints(self, datasets: Sequence[Dataset]) -> Sequence[int]:
        keypoints = datasets[0].keypoints
        assert keypoints is not None  # the task has checked it, and that all sets have the same
        return keypoints.flipped

    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> ImageDetections:
        return replace(super().prediction(sample, output), keypoints=output["keypoints"].cpu().numpy())

    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        return replace(super().training_input(cfg, record, sample), keypoints=sample["keypoints"].numpy())
