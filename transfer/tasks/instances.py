"""Predicts objects as boxes, and as masks with MODEL.MASK_ON: the papers' detectors on VOC and COCO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from transfer.config.lint import Finding, error, warning
from transfer.config.support import DILATED_C5, FPN
from transfer.data.dataset import Dataset
from transfer.data.segmentation import area
from transfer.data.spec import DatasetError, few
from transfer.evaluation.evaluator import Evaluator
from transfer.evaluation.protocols import Protocol
from transfer.tasks.task import Task


class Instances(Task):
    """The task of detecting objects, and of segmenting them if the config asks for masks."""

    name = "instances"
    protocols: ClassVar[tuple[str, ...]] = ("voc07", "voc12", "coco", "lvis", "cityscapes")

    def applies(self, cfg: Mapping[str, Any]) -> bool:
        model = cfg["MODEL"]
        others = model["KEYPOINT_ON"] or model["DENSEPOSE_ON"]
        return model["META_ARCHITECTURE"] == "GeneralizedRCNN" and not others

    def classes(self, cfg: Mapping[str, Any]) -> tuple[str, int]:
        return "MODEL.ROI_HEADS.NUM_CLASSES", cfg["MODEL"]["ROI_HEADS"]["NUM_CLASSES"]

    def check_training(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        if not cfg["MODEL"]["MASK_ON"]:
            return
        without, as_rle = [], []
        for record in dataset.records:
            for annotation in record["annotations"]:
                if annotation["iscrowd"]:
                    continue
                if "segmentation" not in annotation:
                    without.append(record["file_name"])
                elif isinstance(annotation["segmentation"], Mapping):
                    as_rle.append(record["file_name"])
        if without:
            raise DatasetError(
                f"MODEL.MASK_ON is True, but {len(without)} objects of training set '{dataset.name}' have no mask, in "
                f"{few(dict.fromkeys(without))}; complete the annotations, or set MODEL.MASK_ON False"
            )
        if as_rle and cfg["INPUT"]["MASK_FORMAT"] == "polygon":
            raise DatasetError(
                f"{len(as_rle)} objects of training set '{dataset.name}' are given as RLE, not as polygons, in "
                f"{few(dict.fromkeys(as_rle))}; set INPUT.MASK_FORMAT bitmask"
            )

    def check_test(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        protocol = self.protocol(dataset)
        dataset.check_scorable()
        if not cfg["MODEL"]["MASK_ON"]:
            if not scores_boxes(protocol):
                raise DatasetError(
                    f"test set '{dataset.name}' is scored by masks alone ({protocol.label}); set MODEL.MASK_ON True"
                )
            return
        if not scores_masks(protocol):
            raise DatasetError(
                f"MODEL.MASK_ON is True, but test set '{dataset.name}' has no masks to score ({protocol.label}); set "
                "MODEL.MASK_ON False, or give a test set with masks"
            )
        check_masks(dataset)

    def evaluator(self, cfg: Mapping[str, Any], dataset: Dataset) -> Evaluator:
        found: Evaluator = self.protocol(dataset).evaluator(dataset, masks=cfg["MODEL"]["MASK_ON"])
        return found

    def lint(self, cfg: Mapping[str, Any]) -> Iterator[Finding]:
        model = cfg["MODEL"]
        backbone, dilation = model["BACKBONE"]["NAME"], model["RESNETS"]["RES5_DILATION"]
        heads = model["ROI_HEADS"]["NAME"]
        if dilation != 1 and backbone != DILATED_C5:
            key = "MODEL.RESNETS.RES5_DILATION"
            if backbone == FPN or heads.startswith("Res5"):
                yield error("dilation", key, f"{dilation} does not go with {backbone} and {heads}: set it to 1")
            else:
                yield warning(
                    "dilation", key,
                    "stock DC5 lacks the 3x3 convolution that the papers' detector has behind conv5: set "
                    f"MODEL.BACKBONE.NAME to {DILATED_C5}",
                )  # fmt: skip
        loader = cfg["DATALOADER"]
        if loader["SAMPLER_TRAIN"] == "RepeatFactorTrainingSampler" and not loader["REPEAT_THRESHOLD"]:
            yield error(
                "repeat-threshold", "DATALOADER.REPEAT_THRESHOLD",
                "0 repeats no image, which RepeatFactorTrainingSampler is for: set the share of images below which a "
                "class is repeated (LVIS: 0.001), or SAMPLER_TRAIN TrainingSampler",
            )  # fmt: skip
        if heads == "Res5ROIHeads":
            yield warning(
                "extra-norm", "MODEL.ROI_HEADS.NAME", "the papers' C4 box head ends in a norm: Res5ROIHeadsExtraNorm"
            )
        box, mask = model["ROI_BOX_HEAD"], model["ROI_MASK_HEAD"]
        if heads == "StandardROIHeads" and (box["NUM_CONV"] > 0 or box["NORM"]):
            yield warning(
                "box-head", "MODEL.ROI_BOX_HEAD",
                f"{box['NUM_CONV']} convolutions and norm '{box['NORM']}' are another detector than the papers' Table "
                "5, whose box head is two fc layers without norm: NUM_CONV 0, NUM_FC 2, NORM ''",
            )  # fmt: skip
        if model["MASK_ON"] and mask["NORM"]:
            yield warning(
                "mask-head", "MODEL.ROI_MASK_HEAD.NORM",
                f"'{mask['NORM']}', but the papers' mask head has no norm: set ''",
            )  # fmt: skip


def scores_boxes(protocol: Protocol) -> bool:
    """Returns whether a protocol has metrics of boxes."""
    return any(metric.key.startswith("bbox/") for metric in protocol.metrics)


def scores_masks(protocol: Protocol) -> bool:
    """Returns whether a protocol has metrics of masks."""
    return any(metric.key.startswith("segm/") for metric in protocol.metrics)


def check_masks(dataset: Dataset) -> None:
    """Raises DatasetError if an object of a test set has no mask, or one that covers no pixel."""
    without, empty = [], []
    for record in dataset.records:
        for annotation in record["annotations"]:
            if (mask := annotation.get("segmentation")) is None:
                without.append(record["file_name"])
            elif not annotation["iscrowd"] and area(mask, record["height"], record["width"]) == 0:
                empty.append(record["file_name"])
    if without or dataset.left_out:
        where = f", in {few(dict.fromkeys(without))}" if without else ""
        raise DatasetError(
            f"{len(without) + dataset.left_out} objects of test set '{dataset.name}' have no "
            f"mask{where}: mask AP would count them as missed; complete the annotations, or set MODEL.MASK_ON False"
        )
    if empty:
        raise DatasetError(
            f"{len(empty)} masks of test set '{dataset.name}' cover no pixel, in {few(dict.fromkeys(empty))}: no "
            "prediction can find them; correct or remove these objects"
        )


INSTANCES = Instances()
