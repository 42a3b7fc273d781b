"""What a task needs of the Detectron2 engine beside Detectron2's own model: records, samples, predictions, pictures."""

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
    """A mapper with errors that name the image's file, whose header was looked at before the run."""

    def __init__(self, mapper: Callable[[dict[str, Any]], dict[str, Any]]):
        self.mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            sample: dict[str, Any] = self.mapper(record)
        except (OSError, SyntaxError, struct.error) as error:  # what Pillow raises on files cut short or damaged
            raise DatasetError(f"cannot read image '{record['file_name']}' ({one_line(str(error))})") from error
        return sample


class Adapter(ABC):
    """Between Detectron2's structures and the task's own."""

    def missing(self) -> list[Missing]:
        """The packages that this task needs beside Detectron2, and that are not here."""
        return []

    def check(self) -> None:
        """Reads once, before a run starts, the files that the task needs beside its data sets.

        Raises:
            DatasetError: one is not what it should be.
        """
        return

    def prepare(self, cfg: CfgNode) -> CfgNode:
        """Returns the config with the keys that this task's parts need beside Detectron2's, for this run alone."""
        return cfg

    def mapper(self, cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Makes what turns a record into a sample; Detectron2's own mapper, unless a task needs another."""
        mapper: Callable[[dict[str, Any]], dict[str, Any]] = DatasetMapper(cfg, is_train=is_train)
        return mapper

    def named_mapper(self, cfg: CfgNode, is_train: bool) -> Named:
        """Makes the `mapper` whose errors name the image."""
        return Named(self.mapper(cfg, is_train))

    def training_records(self, cfg: CfgNode) -> list[dict[str, Any]]:
        """Reads from Detectron2's catalog the images that are trained on, as Detectron2 chooses them."""
        records: list[dict[str, Any]] = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            self.least_keypoints(cfg),
            cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        return records

    def least_keypoints(self, cfg: CfgNode) -> int:
        """How many visible keypoints an image must have to be trained on."""
        return 0

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """A fresh record as Detectron2's catalog is to hold it, with the box mode spelt out."""
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode.XYXY_ABS
        return record

    def metadata(self, dataset: Dataset) -> dict[str, Any]:
        """What Detectron2's catalog is to know of a data set beside its records."""
        return {"thing_classes": list(dataset.classes)}

    @abstractmethod
    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> Any:
        """Turns the model's output for a test sample into what the task's evaluator takes."""

    @abstractmethod
    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        """Shows a mapped training sample as plain arrays, for pictures."""
