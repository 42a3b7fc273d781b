"""Runs semantic segmentation on the torchvision engine: FCN-16s on scaled crops, one map of classes per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from transfer.config.support import ANY_WIDTH, FCN_16S, HONOURED, RESNET, Support
from transfer.data.dataset import Dataset
from transfer.data.label_maps import read_labels
from transfer.data.records import PackedRecords
from transfer.engines.crops import Draw, ScaledCrops
from transfer.engines.training_input import TrainingInput
from transfer.engines.tv import mapper
from transfer.engines.tv.adapters.adapter import Adapter
from transfer.engines.tv.adapters.configured_trunk import configured_trunk
from transfer.engines.tv.backbone import Stages
from transfer.engines.tv.norm import norm_layer
from transfer.engines.tv.segmentor import FCNHead, Segmentor
from transfer.engines.tv.serving.networks import Served, ServedSegmentor
from transfer.evaluation.miou import Map

DILATION = 6  # of the head's two convolutions
_BOXES = Support("no effect", "belongs to the detectors of boxes, MODEL.META_ARCHITECTURE GeneralizedRCNN")
_SCALED = Support("no effect", "training images are scaled by INPUT.RANDOM_SCALE")


def _only(why: str, *values: Any) -> Support:
    return Support("honoured", why, lambda value: value in values)


class SemanticAdapter(Adapter):
    """Handles maps of classes; see the module."""

    support: ClassVar[Mapping[str, Support]] = MappingProxyType(
        {
            "MODEL.META_ARCHITECTURE": _only("this adapter segments", "SemanticSegmentor"),
            "MODEL.BACKBONE.NAME": _only("FCN-16s stands on the ResNet itself", RESNET, ANY_WIDTH),
            "MODEL.MASK_ON": _BOXES,
            "MODEL.KEYPOINT_ON": _BOXES,
            **{f"MODEL.{part}.*": _BOXES for part in ("RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD")},
            **{f"MODEL.{part}.*": _BOXES for part in ("ANCHOR_GENERATOR", "PROPOSAL_GENERATOR")},
            "MODEL.SEM_SEG_HEAD.*": HONOURED,
            "MODEL.SEM_SEG_HEAD.NAME": _only("the papers' head", FCN_16S),
            "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": Support("no effect", "the head has the stride of its feature map"),
            "MODEL.SEM_SEG_HEAD.NORM": _only(
                "these are the papers' norms", "", "BN", "SyncBN", "naiveSyncBN", "FrozenBN"
            ),
            "INPUT.RANDOM_SCALE": HONOURED,
            "INPUT.CROP.*": HONOURED,
            "INPUT.CROP.TYPE": _only("maps are cropped to a size in pixels, set it to absolute", "absolute"),
            "INPUT.MIN_SIZE_TRAIN": _SCALED,
            "INPUT.MIN_SIZE_TRAIN_SAMPLING": _SCALED,
            "INPUT.MAX_SIZE_TRAIN": _SCALED,
            "INPUT.MASK_FORMAT": _BOXES,
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS": _BOXES,
            "TEST.DETECTIONS_PER_IMAGE": _BOXES,
        }
    )

    def build(self, cfg: CfgNode, device: str) -> Segmentor:
        m, head = cfg.MODEL, cfg.MODEL.SEM_SEG_HEAD
        stages = Stages(configured_trunk(cfg, device), m.RESNETS.OUT_FEATURES, m.BACKBONE.FREEZE_AT)
        (feature,) = head.IN_FEATURES
        fcn = FCNHead(
            stages.channels[feature], stages.strides[feature],
            width=head.CONVS_DIM, dilation=DILATION, norm=norm_layer(head.NORM, device) if head.NORM else None,
            num_classes=head.NUM_CLASSES,
        )  # fmt: skip
        return Segmentor(
            stages, fcn, feature, m.PIXEL_MEAN, m.PIXEL_STD,
            ignore_label=head.IGNORE_VALUE, loss_weight=head.LOSS_WEIGHT,
        )  # fmt: skip

    def train_samples(self, cfg: CfgNode, datasets: Sequence[Dataset], seed: int) -> SegmentationSamples:
        records = PackedRecords.joined([dataset.records for dataset in datasets])
        return SegmentationSamples(records, ScaledCrops.of(cfg), channel_order=cfg.INPUT.FORMAT, seed=seed)

    def test_samples(self, cfg: CfgNode, records: PackedRecords) -> mapper.TestSamples:
        return mapper.TestSamples(
            records,
            channel_order=cfg.INPUT.FORMAT,
            short_edge=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
        )

    def prediction(self, sample: dict[str, Any], output: torch.Tensor) -> Map:
        return Map(sample["image_id"], output.argmax(dim=0).cpu().numpy())

    def served(self, cfg: CfgNode, model: nn.Module) -> Served:
        return ServedSegmentor(model, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        image = sample["image"].permute(1, 2, 0).numpy()
        return TrainingInput.of_map(
            record["file_name"], image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image, sample["sem_seg"].numpy()
        )


class SegmentationSamples(mapper.Augmented):
    """Maps (position, index) to {"image": (3, h, w), "sem_seg": (h, w)} in uint8, by that position's randomness."""

    def __init__(self, records: PackedRecords, crops: ScaledCrops, *, channel_order: str, seed: int):
        super().__init__(records, channel_order, seed)
        self.crops = crops

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        position, index = key
        return self.augmented(self.records[index], self.crops.draw(self.generator(position).random))

    def augmented(self, record: dict[str, Any], draw: Draw) -> dict[str, Any]:
        """Makes the network's input for these random numbers."""
        image = mapper.checked_image(record, self.channel_order)
        image, labels = self.crops(image, read_labels(record["sem_seg_file_name"]), draw)
        return {"image": mapper.to_tensor(image), "sem_seg": torch.from_numpy(np.array(labels))}
