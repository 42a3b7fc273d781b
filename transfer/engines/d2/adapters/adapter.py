"""Defines what a task adds to Detectron2's own model: records, samples, predictions and pictures."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from fvcore.common.config import CfgNode

from transfer.data.dataset import Dataset
from transfer.data.missing import Missing
from transfer.data.spec import DatasetError, one_line
from transfer.engines.training_input import TrainingInput


class Named:
    """Wraps a mapper so that its errors name the image's file; only the file's header was read before the run."""

    def __init__(self, mapper: Callable[[dict[str, Any]], dict[str, Any]]):
        self.mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            sample: dict[str, Any] = self.mapper(record)
        except (OSError, SyntaxError, struct.error) as error:  # what Pillow raises on files cut short or damaged
            raise DatasetError(f"cannot read image '{record['file_name']}' ({one_line(str(error))})") from error
        return sample


class Adapter(ABC):
    """Translates between Detectron2's structures and a task's own."""

    def missing(self) -> list[Missing]:
        """Returns the packages that this task needs beside Detectron2 and that this machine lacks."""
        return []

    def check(self) -> None:
        """Reads the files that the task needs beside its data sets; called once, before a run starts.

        Raises:
            DatasetError: such a file is not what it should be.
        """
        return

    def prepare(self, cfg: CfgNode) -> CfgNode:
        """Returns the config with the extra keys that this task's parts read; they serve this run alone."""
        return cfg

    def mapper(self, cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Makes the function that turns a record into a sample: Detectron2's own mapper, unless overridden."""
        mapper: Callable[[dict[str, Any]], dict[str, Any]] = DatasetMapper(cfg, is_train=is_train)
        return mapper

    def named_mapper(self, cfg: CfgNode, is_train: bool) -> Named:
        """Makes the `mapper` whose errors name the image."""
        return Named(self.mapper(cfg, is_train))

    def training_records(self, cfg: CfgNode) -> list[dict[str, Any]]:
        """Reads the training images from Detectron2's catalog, filtered as Detectron2 filters them."""
        records: list[dict[str, Any]] = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            self.least_keypoints(cfg),
            cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        return records

    def least_keypoints(self, cfg: CfgNode) -> int:
        """Returns how many visible keypoints an image must have to be trained on."""
        return 0

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns a new record in the form of Detectron2's catalog, with the box mode stated explicitly."""
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode.XYXY_ABS
        return record

    def metadata(self, dataset: Dataset) -> dict[str, Any]:
        """Returns what Detectron2's catalog must know about a data set beside its records."""
        return {"thing_classes": list(dataset.classes)}

    @abstractmethod
    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> Any:
        """Turns the model's output for a test sample into what the task's evaluator takes."""

    @abstractmethod
    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        """Shows a mapped training sample as plain arrays, for pictures."""
