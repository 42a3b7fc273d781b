"""Opens a run's data sets, validates them and checks them against the config before training, on both engines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.slug import check_unique, part
from transfer.data import catalog
from transfer.data.dataset import Dataset, check_classes, open_dataset
from transfer.data.image_files import check_images
from transfer.data.spec import DatasetError
from transfer.tasks import task_of
from transfer.tasks.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """Holds the data sets that a run trains and tests on. `train` is empty in an evaluation."""

    task: Task
    train: tuple[Dataset, ...]
    test: tuple[Dataset, ...]

    @property
    def notes(self) -> list[str]:
        """Returns what was mended in the data sets, for the notes of the result."""
        return list(dict.fromkeys(note for dataset in (*self.train, *self.test) for note in dataset.notes))


def open_run_data(cfg: CfgNode, training: bool) -> RunData:
    """Opens all data sets of a run and checks everything that can be known about them without reading pixels.

    An error that can be found here must not come after the training, so test sets are checked against their protocol.

    Args:
        training: False for an evaluation, which needs only test sets; a detector's may lack annotations.

    Raises:
        ConfigError: no data set is named, no task fits the config, or its number of classes is not the data's.
        DatasetError: a data set cannot be used as asked.
    """
    task = task_of(cfg)
    if task is None:
        raise ConfigError(
            "no task of this project is what the config asks for "
            f"(MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}, KEYPOINT_ON {cfg.MODEL.KEYPOINT_ON}, "
            f"DENSEPOSE_ON {cfg.MODEL.DENSEPOSE_ON}): its detectors predict boxes, masks, keypoints and DensePose"
        )
    sets: dict[str, tuple[Dataset, ...]] = {}
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        if not cfg.DATASETS[key]:
            raise ConfigError(f"DATASETS.{key} is empty; name at least one data set")
        if len(set(cfg.DATASETS[key])) < len(cfg.DATASETS[key]):
            raise ConfigError(f"DATASETS.{key} names a data set twice ({', '.join(cfg.DATASETS[key])}); name it once")
        check_unique((f"data set '{name}'", part(name)) for name in cfg.DATASETS[key])
        sets[key] = tuple(open_dataset(spec) for spec in catalog.resolve(cfg.DATASETS[key], cfg.DATASETS.SPECS))
    data = RunData(task, sets.get("TRAIN", ()), sets["TEST"])
    both = {dataset.name: dataset for dataset in (*data.train, *data.test)}
    for dataset in both.values():
        task.protocol(dataset)
    key, count = task.classes(cfg)
    for dataset in both.values():
        if len(dataset.classes) != count:
            shown = ", ".join(dataset.classes[:5]) + ", ..." * (len(dataset.classes) > 5)
            raise ConfigError(
                f"{key} is {count}, but data set '{dataset.name}' has {len(dataset.classes)} classes ({shown})"
            )
    check_classes({name: dataset.classes for name, dataset in both.items()})
    task.check_together(tuple(both.values()))
    for dataset in data.train:
        task.check_training(cfg, dataset)
    for dataset in data.test:
        if training or not (dataset.unannotated and not task.protocol(dataset).maps):
            task.check_test(cfg, dataset)
    for dataset in data.train:
        task.check_sizes(cfg, dataset, training=True)
    for dataset in data.test:
        task.check_sizes(cfg, dataset, training=False)
    return data


def check_run_data(cfg: CfgNode, training: bool) -> list[str]:
    """Does what `open_run_data` does and reads the header of every image; called once, before a run starts.

    In a process group the first process checks, and all processes raise what it finds.

    Returns:
        In the first process what a reader of the result must know of the data, logged here as warnings.
    """
    problem: str | None = None
    data = open_run_data(cfg, training)
    if dist.is_main():
        try:
            check_images((*data.train, *data.test))
        except DatasetError as error:
            problem = str(error)
    if (problem := dist.broadcast_object(problem)) is not None:
        raise DatasetError(problem)
    lines = _in_both(data) if dist.is_main() else []
    for line in lines:
        logger.warning(line)
    return lines


def _in_both(data: RunData) -> list[str]:
    """Returns a line for each test set some of whose images are trained on."""
    trained = {record["file_name"] for dataset in data.train for record in dataset.records}
    lines = []
    for dataset in data.test if trained else ():
        shared = [record["file_name"] for record in dataset.records if record["file_name"] in trained]
        if shared:
            lines.append(
                f"{len(shared)} of the {len(dataset.records)} test images of '{dataset.name}' are trained on too, e.g. "
                f"'{shared[0]}': its scores do not say how the detector does on other images"
            )
    return lines


def with_objects(datasets: Sequence[Dataset], keep_empty: bool) -> list[list[int]]:
    """Returns, per data set, the positions of the training images: those with an object that is not a crowd region.

    Args:
        keep_empty: take the other images too (DATALOADER.FILTER_EMPTY_ANNOTATIONS is off).

    Raises:
        ConfigError: no image remains.
    """
    chosen = [
        [i for i, record in enumerate(dataset.records) if keep_empty or _has_object(record)] for dataset in datasets
    ]
    total, left = sum(len(d.records) for d in datasets), sum(map(len, chosen))
    without = "" if left == total else f" (the other {total - left} have no objects)"
    logger.info("training images: %d of %d%s", left, total, without)
    if not left:
        raise ConfigError(f"no image of {', '.join(d.name for d in datasets)} has an annotated object")
    return chosen


def _has_object(record: Mapping[str, Any]) -> bool:
    return any(not annotation.get("iscrowd", 0) for annotation in record["annotations"])
