"""Runs DensePose on Detectron2, with the model and mapper of its project, where that is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode

from transfer.data import densepose_files
from transfer.data.dataset import Dataset
from transfer.data.densepose import has_points
from transfer.data.missing import Missing
from transfer.engines.d2 import densepose_problem
from transfer.engines.d2.adapters.instances import InstancesAdapter
from transfer.evaluation.predictions import ImageDetections
from transfer.tasks.installing import how_to_install


class DensePoseAdapter(InstancesAdapter):
    """Adds points on the body's surface to instances. The DensePose project is imported only when it is needed."""

    def missing(self) -> list[Missing]:
        problem = densepose_problem()
        return [] if problem is None else [Missing(problem, f"install it with {how_to_install('densepose')}")]

    def check(self) -> None:
        densepose_files.check_symmetries()
        densepose_files.read_surface()

    def prepare(self, cfg: CfgNode) -> CfgNode:
        from transfer.engines.d2.densepose import completed

        return completed(cfg)

    def mapper(self, cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
        from densepose.data import DatasetMapper

        mapper: Callable[[dict[str, Any]], dict[str, Any]] = DatasetMapper(cfg, is_train=is_train)
        return mapper

    def training_records(self, cfg: CfgNode) -> list[dict[str, Any]]:
        """Reads the training images as the DensePose project chooses them: those with points."""
        return [r for r in super().training_records(cfg) if any(map(has_points, r["annotations"]))]

    def metadata(self, dataset: Dataset) -> dict[str, Any]:
        symmetries = densepose_files.folder() / densepose_files.SYMMETRIES
        return {**super().metadata(dataset), "densepose_transform_src": str(symmetries)}

    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> ImageDetections:
        from transfer.engines.d2.densepose import with_surfaces

        return with_surfaces(super().prediction(sample, output), output["instances"].to("cpu"))
