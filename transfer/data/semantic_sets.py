"""Lists the official sets of maps of classes: VOC 2012 with SBD's annotations, and Cityscapes' fine ones."""

from __future__ import annotations

from pathlib import Path

from transfer.data import voc
from transfer.data.semantic import Layout
from transfer.data.spec import DatasetSpec

VOC_CLASSES = ("background", *voc.CLASS_NAMES)
CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""By train id."""
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Train id -> the id in `*_gtFine_labelIds.png`; the other ids are ignored."""
IMAGES = {
    "voc_2012_sem_seg_train_aug": 10582,
    "voc_2012_sem_seg_val": 1449,
    "cityscapes_fine_sem_seg_train": 2975,
    "cityscapes_fine_sem_seg_val": 500,
}
"""How many images each has."""
_VOC_REMEDY = (
    "extract VOCtrainval_11-May-2012.tar with datasets/prepare_voc.py, then make the maps with datasets/"
    "prepare_voc_aug.py"
)
_CITYSCAPES_REMEDY = (
    "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there, then make the maps with datasets/"
    "prepare_cityscapes.py"
)


def official(root: Path) -> list[DatasetSpec]:
    """Returns the sets in Detectron2's tree; those of Cityscapes have Detectron2's names."""
    voc_root, city = root / "VOC2012", root / "cityscapes"
    specs = [
        DatasetSpec(
            f"voc_2012_sem_seg_{split}", "semantic", voc_root, split, VOC_CLASSES,
            image_root=voc_root / "JPEGImages",
            layout=Layout(voc_root / "SegmentationClassAug", voc_root / "ImageSets" / "Segmentation" / f"{split}.txt"),
            remedy=_VOC_REMEDY,
        )
        for split in ("train_aug", "val")
    ]  # fmt: skip
    specs += [
        DatasetSpec(
            f"cityscapes_fine_sem_seg_{split}", "semantic", city, split, CITYSCAPES_CLASSES,
            image_root=city / "leftImg8bit" / split,
            layout=Layout(
                city / "gtFine" / split, image_suffix="_leftImg8bit.png", label_suffix="_gtFine_labelTrainIds.png"
            ),
            remedy=_CITYSCAPES_REMEDY,
        )
        for split in ("train", "val")
    ]  # fmt: skip
    return specs
