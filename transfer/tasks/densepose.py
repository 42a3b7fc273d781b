"""Predicts points on the surface of people, beside boxes: DensePose R-CNN (MODEL.DENSEPOSE_ON), MoCo's Table 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.runtime.errors import ConfigError
from transfer.config.lint import Finding, error
from transfer.config.support import DENSEPOSE_HEADS
from transfer.data.dataset import Dataset
from transfer.data.densepose import has_points
from transfer.data.densepose_files import missing_files
from transfer.data.missing import Missing
from transfer.data.spec import DatasetError
from transfer.evaluation.evaluator import Evaluator
from transfer.tasks.instances import Instances


class DensePose(Instances):
    """The task of DensePose R-CNN. Boxes are scored, too; masks and keypoints are tasks of their own."""

    name = "densepose"
    protocols = ("densepose",)
    rates = (0.002,)
    packages = ("detectron2", "densepose")

    def applies(self, cfg: Mapping[str, Any]) -> bool:
        model = cfg["MODEL"]
        return bool(model["META_ARCHITECTURE"] == "GeneralizedRCNN" and model["DENSEPOSE_ON"])

    def missing(self) -> list[Missing]:
        return missing_files()

    def check_training(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        self._check(cfg, dataset)
        if not any(map(has_points, _objects(dataset))):
            raise DatasetError(
                f"no object of training set '{dataset.name}' that is no crowd has points of DensePose (dp_x, dp_y, "
                "dp_I, dp_U, dp_V); complete the annotations, or set MODEL.DENSEPOSE_ON False"
            )

    def check_test(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        self._check(cfg, dataset)
        dataset.check_scorable()
        if not any(map(has_points, _objects(dataset))):
            raise DatasetError(
                f"no object of test set '{dataset.name}' that is no crowd has points of DensePose, so that its AP is "
                "undefined; complete the annotations, or set MODEL.DENSEPOSE_ON False"
            )

    def evaluator(self, cfg: Mapping[str, Any], dataset: Dataset) -> Evaluator:
        found: Evaluator = self.protocol(dataset).evaluator(dataset)
        return found

    def lint(self, cfg: Mapping[str, Any]) -> Iterator[Finding]:
        yield from super().lint(cfg)
        yield from _contradictions(cfg)

    def _check(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        """Raises ConfigError for keys that cannot be followed, and DatasetError for a set that is not scored so."""
        if (found := next(_contradictions(cfg), None)) is not None:
            raise ConfigError(f"{found.key}: {found.message}")
        self.protocol(dataset)


def _objects(dataset: Dataset) -> Iterator[Mapping[str, Any]]:
    """Yields every annotation that is not a crowd region."""
    return (a for record in dataset.records for a in record["annotations"] if not a["iscrowd"])


def _contradictions(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields the settings that DensePose's model or its mapper would fail on, or silently ignore."""
    model = cfg["MODEL"]
    for key, given, wanted in (
        ("MODEL.ROI_HEADS.NAME", model["ROI_HEADS"]["NAME"], DENSEPOSE_HEADS),
        ("MODEL.MASK_ON", model["MASK_ON"], False),
        ("MODEL.KEYPOINT_ON", model["KEYPOINT_ON"], False),
        ("MODEL.LOAD_PROPOSALS", model["LOAD_PROPOSALS"], False),
        ("INPUT.CROP.ENABLED", cfg["INPUT"]["CROP"]["ENABLED"], False),
        ("TEST.AUG.ENABLED", cfg["TEST"]["AUG"]["ENABLED"], False),
    ):
        if given != wanted:
            yield error("densepose", key, f"{given} does not go with MODEL.DENSEPOSE_ON: set it to {wanted}")
    if cfg["INPUT"]["RANDOM_FLIP"] == "vertical":
        yield error(
            "densepose", "INPUT.RANDOM_FLIP", "DensePose's points mirror horizontally: set it to horizontal or none"
        )
    if not model["ROI_DENSEPOSE_HEAD"]["NAME"]:
        yield error(
            "densepose", "MODEL.ROI_DENSEPOSE_HEAD.NAME", "it is empty; the papers' head is DensePoseV1ConvXHead"
        )


DENSEPOSE = DensePose()
