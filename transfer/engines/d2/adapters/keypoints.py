"""Translates keypoints, beside boxes, to and from Detectron2's instances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fvcore.common.config import CfgNode

from transfer.data.dataset import Dataset
from transfer.engines.d2.adapters.instances import InstancesAdapter
from transfer.engines.training_input import TrainingInput
from transfer.evaluation.predictions import ImageDetections


class KeypointsAdapter(InstancesAdapter):
    """Adds keypoints to what instances have."""

    def least_keypoints(self, cfg: CfgNode) -> int:
        return int(cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)

    def metadata(self, dataset: Dataset) -> dict[str, Any]:
        """Returns the metadata with the keypoints' names and the pairs that swap in a mirrored image."""
        keypoints = dataset.keypoints
        assert keypoints is not None  # the task refuses a set without them
        names, pairs = keypoints.names, keypoints.pairs or ()
        flips = tuple((names[a], names[b]) for a, b in pairs)
        return {**super().metadata(dataset), "keypoint_names": names, "keypoint_flip_map": flips}

    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> ImageDetections:
        points = output["instances"].pred_keypoints.cpu().numpy()
        return replace(super().prediction(sample, output), keypoints=points)

    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        instances = sample["instances"]
        points = instances.gt_keypoints.tensor.numpy() if instances.has("gt_keypoints") else None
        return replace(super().training_input(cfg, record, sample), keypoints=points)
