"""Predicts keypoints of objects, beside boxes: Mask R-CNN's keypoint version (MODEL.KEYPOINT_ON), MoCo's Table 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pretrain.runtime.errors import ConfigError
from transfer.config.lint import Finding, error, warning
from transfer.data.dataset import Dataset
from transfer.data.keypoints import Keypoints, keypoints_differ
from transfer.data.spec import DatasetError, few
from transfer.evaluation.coco_keypoints import oks_sigmas
from transfer.evaluation.evaluator import Evaluator
from transfer.tasks.instances import Instances

_NO_HEAD = "has no keypoint head (nor has Detectron2's): set StandardROIHeads, with a pyramid or a dilated conv5"


class KeypointTask(Instances):
    """The task of predicting keypoints. Everything that holds of `Instances` holds here, too, including masks."""

    name = "keypoints"
    protocols = ("coco_keypoints",)

    def applies(self, cfg: Mapping[str, Any]) -> bool:
        model = cfg["MODEL"]
        on = model["KEYPOINT_ON"] and not model["DENSEPOSE_ON"]
        return bool(model["META_ARCHITECTURE"] == "GeneralizedRCNN" and on)

    def check_training(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        super().check_training(cfg, dataset)
        keypoints = self._keypoints(cfg, dataset)
        if cfg["INPUT"]["RANDOM_FLIP"] == "horizontal" and keypoints.pairs is None:
            raise DatasetError(
                f"INPUT.RANDOM_FLIP is horizontal, but which keypoints of training set '{dataset.name}' swap in a "
                f"mirrored image is not known ({few(keypoints.names, 20)}): give flip_pairs in its spec file ([] if "
                "none do), or set INPUT.RANDOM_FLIP none"
            )
        least = cfg["MODEL"]["ROI_KEYPOINT_HEAD"]["MIN_KEYPOINTS_PER_IMAGE"]
        if not any(trainable(record, max(least, 1)) for record in dataset.records):
            raise DatasetError(
                f"no image of training set '{dataset.name}' has {max(least, 1)} labelled keypoints on objects that are "
                "no crowd; complete the annotations, or lower MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"
            )

    def check_test(self, cfg: Mapping[str, Any], dataset: Dataset) -> None:
        super().check_test(cfg, dataset)
        oks_sigmas(cfg["TEST"]["KEYPOINT_OKS_SIGMAS"], len(self._keypoints(cfg, dataset)))
        truth = dataset.truth
        if not (truth.keypoints[~truth.crowd, :, 2] > 0).any():
            raise DatasetError(
                f"no object of test set '{dataset.name}' has a labelled keypoint, so that keypoint AP is undefined; "
                "complete the annotations, or set MODEL.KEYPOINT_ON False"
            )

    def check_together(self, datasets: Sequence[Dataset]) -> None:
        if fault := keypoints_differ({dataset.name: dataset.keypoints for dataset in datasets}):
            raise DatasetError(fault)

    def evaluator(self, cfg: Mapping[str, Any], dataset: Dataset) -> Evaluator:
        found: Evaluator = self.protocol(dataset).evaluator(
            dataset, masks=cfg["MODEL"]["MASK_ON"], sigmas=cfg["TEST"]["KEYPOINT_OKS_SIGMAS"]
        )
        return found

    def lint(self, cfg: Mapping[str, Any]) -> Iterator[Finding]:
        yield from super().lint(cfg)
        if (heads := cfg["MODEL"]["ROI_HEADS"]["NAME"]).startswith("Res5"):
            yield error("keypoint-heads", "MODEL.ROI_HEADS.NAME", f"{heads} {_NO_HEAD}")
        if not cfg["MODEL"]["ROI_BOX_HEAD"]["SMOOTH_L1_BETA"]:
            yield warning(
                "keypoint-beta", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
                "0 is plain L1, with which Detectron2 reports lower keypoint AP: its keypoint baselines have 0.5",
            )  # fmt: skip

    def _keypoints(self, cfg: Mapping[str, Any], dataset: Dataset) -> Keypoints:
        """Returns the keypoints of the data set.

        Raises:
            ConfigError: the RoI heads have no keypoint head.
            DatasetError: the set has no keypoints, or another number of them than the head.
        """
        if (heads := cfg["MODEL"]["ROI_HEADS"]["NAME"]).startswith("Res5"):
            raise ConfigError(f"MODEL.KEYPOINT_ON is True, but MODEL.ROI_HEADS.NAME {heads} {_NO_HEAD}")
        self.protocol(dataset)
        if (keypoints := dataset.keypoints) is None:
            raise DatasetError(
                f"MODEL.KEYPOINT_ON is True, but data set '{dataset.name}' has no keypoints: its categories list none, "
                "or not all the same; give a json with them, or set MODEL.KEYPOINT_ON False"
            )
        given = cfg["MODEL"]["ROI_KEYPOINT_HEAD"]["NUM_KEYPOINTS"]
        if given != len(keypoints):
            raise DatasetError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {given}, but data set '{dataset.name}' has {len(keypoints)} "
                f"({few(keypoints.names, 20)}): set it so"
            )
        return keypoints


def labelled_points(record: Mapping[str, Any]) -> int:
    """Returns how many keypoints of an image are labelled, including those of crowds, as Detectron2 counts them."""
    return sum(v > 0 for annotation in record["annotations"] for v in annotation["keypoints"][2::3])


def trainable(record: Mapping[str, Any], least: int) -> bool:
    """Returns whether an image has at least `least` labelled keypoints, one of them on an object that is no crowd."""
    objects = (a for a in record["annotations"] if not a["iscrowd"])
    return labelled_points(record) >= least and any(any(a["keypoints"][2::3]) for a in objects)


KEYPOINTS = KeypointTask()
