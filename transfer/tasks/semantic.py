"""Predicts a class for every pixel: MoCo's appendix, FCN-16s on VOC 2012 and Cityscapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transfer.config.lint import Finding, error, warning
from transfer.config.support import FCN_16S
from transfer.data.dataset import Dataset
from transfer.data.spec import DatasetError
from transfer.evaluation.evaluator import Evaluator
from transfer.tasks.task import Task

HEAD = "MODEL.SEM_SEG_HEAD"
LONGEST = 2**15  # pixels of a crop's side


class Semantic(Task):
    """The task of semantic segmentation."""

    name = "semantic"
    protocols = ("miou",)
    rates = (0.003, 0.01)  # VOC, Cityscapes
    needs_objects = False

    def applies(self, cfg: Mapping[str, Any]) -> bool:
        return bool(cfg["MODEL"]["META_ARCHITECTURE"] == "SemanticSegmentor")

    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, int]:
        return f"{HEAD}.NUM_CLASSES", cfg["MODEL"]["SEM_SEG_HEAD"]["NUM_CLASSES"]

    def check_training(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        self._check(cfg, dataset)

    def check_test(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        self._check(cfg, dataset)
        dataset.check_scorable()

    def _check(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        self.protocol(dataset)
        given, own = cfg["MODEL"]["SEM_SEG_HEAD"]["IGNORE_VALUE"], dataset.truth.ignore_label
        if given != own:
            raise DatasetError(
                f"{HEAD}.IGNORE_VALUE is {given}, but the maps of data set '{dataset.name}' mark ignored pixels by "
                f"{own}: set it so"
            )

    def check_sizes(self, cfg: Mapping[str, Any], dataset: Dataset, training: bool) -> None:
        if not training:
            super().check_sizes(cfg, dataset, training)
            return
        low = cfg["INPUT"]["RANDOM_SCALE"][0]
        for record in dataset.records:
            if min(record["height"], record["width"]) * low < 0.5:
                raise DatasetError(
                    f"image {record['image_id']!r} of data set '{dataset.name}' is {record['width']}x"
                    f"{record['height']}: scaled by {low:g} nothing is left of its shorter edge; take it out, or raise "
                    "INPUT.RANDOM_SCALE"
                )

    def evaluator(self, cfg: Mapping[str, Any], dataset: Dataset) -> Evaluator:
        found: Evaluator = self.protocol(dataset).evaluator(dataset)
        return found

    def lint(self, cfg: Mapping[str, Any]) -> Iterator[Finding]:
        model, given = cfg["MODEL"], cfg["INPUT"]
        head, resnet = model["SEM_SEG_HEAD"], model["RESNETS"]
        if head["NAME"] == FCN_16S:
            yield from self._head(head, resnet)
        else:
            yield warning("head", f"{HEAD}.NAME", f"{head['NAME']} is not the papers' head: {FCN_16S}")
        crop = given["CROP"]
        if not crop["ENABLED"]:
            yield warning("crop", "INPUT.CROP.ENABLED", "False trains on whole images; the papers crop 513 or 769")
        elif crop["TYPE"] != "absolute" or any(size != int(size) or not 1 <= size <= LONGEST for size in crop["SIZE"]):
            yield error(
                "crop", "INPUT.CROP",
                f"TYPE {crop['TYPE']} with SIZE {list(crop['SIZE'])}: maps are cropped to TYPE absolute, with a height "
                f"and a width in whole pixels, at most {LONGEST}",
            )  # fmt: skip
        if tuple(given["RANDOM_SCALE"]) != (0.5, 2.0):
            yield warning(
                "scale", "INPUT.RANDOM_SCALE", f"{tuple(given['RANDOM_SCALE'])}; the papers scale by 0.5 to 2.0"
            )
        if given["MIN_SIZE_TEST"] != 0:
            yield warning(
                "test-size", "INPUT.MIN_SIZE_TEST",
                f"{given['MIN_SIZE_TEST']} resizes test images; the papers test at the original size: 0",
            )  # fmt: skip
        for key, value, may in (
            ("INPUT.FORMAT", given["FORMAT"], ("RGB", "BGR")),
            ("INPUT.RANDOM_FLIP", given["RANDOM_FLIP"], ("horizontal", "none")),
            (
                "DATALOADER.SAMPLER_TRAIN",
                cfg["DATALOADER"]["SAMPLER_TRAIN"],
                ("TrainingSampler", "RandomSubsetTrainingSampler"),
            ),
        ):
            if value not in may:
                yield error("samples", key, f"{value} is not made for maps of classes: set it to {' or '.join(may)}")

    def _head(self, head: Mapping[str, Any], resnet: Mapping[str, Any]) -> Iterator[Finding]:
        if len(head["IN_FEATURES"]) != 1 or head["IN_FEATURES"][0] not in resnet["OUT_FEATURES"]:
            yield error(
                "features", f"{HEAD}.IN_FEATURES",
                f"{head['IN_FEATURES']}, but the head takes one of MODEL.RESNETS.OUT_FEATURES {resnet['OUT_FEATURES']}",
            )  # fmt: skip
        if head["IN_FEATURES"] == ["res5"] and resnet["DEPTH"] >= 50 and resnet["RES5_DILATION"] != 2:
            yield warning(
                "dilation", "MODEL.RESNETS.RES5_DILATION",
                f"{resnet['RES5_DILATION']} makes maps of stride 32; the papers' FCN-16s has a dilated conv5: 2",
            )  # fmt: skip
        if not head["NORM"]:
            yield warning("head-norm", f"{HEAD}.NORM", "it is empty; the papers' two new convolutions have batch norm")


SEMANTIC = Semantic()
