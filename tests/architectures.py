"""Every detector of the papers at a size that a CPU runs in seconds: a config, and options for the generated set."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ROOT
from transfer.data.generated import CLASS_NAMES

_CONFIGS = ROOT / "configs" / "transfer"
_R50 = ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"]
_NARROW = ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
           "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.WIDTH_PER_GROUP", "16"]  # fmt: skip
_NARROW_R18 = ["MODEL.BACKBONE.NAME", "build_any_width_resnet_backbone", "MODEL.RESNETS.STEM_OUT_CHANNELS", "32",
               "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"]  # fmt: skip
_MSRA = ["MODEL.RESNETS.STRIDE_IN_1X1", "True", "INPUT.FORMAT", "BGR",
         "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]  # fmt: skip
_X50 = [*_R50, "MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"]
_C4 = _CONFIGS / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
_DC5 = _CONFIGS / "voc" / "faster_rcnn_R_50_DC5_24k_moco.yaml"
_MASK_C4 = _CONFIGS / "coco" / "mask_rcnn_R_18_C4_small_moco.yaml"
_MASK_FPN = _CONFIGS / "coco" / "mask_rcnn_R_18_FPN_small_moco.yaml"
_KEYPOINT_FPN = _CONFIGS / "coco" / "keypoint_rcnn_R_18_FPN_small_moco.yaml"
_FEW_ROIS = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "64", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "1000",
             "MODEL.RPN.POST_NMS_TOPK_TRAIN", "200", "MODEL.RPN.PRE_NMS_TOPK_TEST", "600",
             "MODEL.RPN.POST_NMS_TOPK_TEST", "64", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32",
             "MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 32, 64, 128]]", "MODEL.ROI_BOX_HEAD.FC_DIM", "64",
             "MODEL.RESNETS.RES5_REDUCED_CHANNELS", "64"]  # fmt: skip

_KEYPOINTS = ["MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "5",
              "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(32,)", "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", "2.0",
              "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS", "False",
              "TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1, 0.1, 0.1, 0.1]"]  # fmt: skip

ARCHITECTURES: dict[str, tuple[Path, list[str]]] = {
    "R18-C4": (_C4, []),
    "R50-C4": (_C4, _R50),
    "R50-C4-MSRA": (_C4, [*_R50, *_MSRA]),
    "X50-C4": (_C4, _X50),
    "R50w0.25x-C4": (_C4, _NARROW),
    "R18w0.5x-C4": (_C4, _NARROW_R18),
    "R50-DC5": (_DC5, _FEW_ROIS),
    "R50-DC5-MSRA": (_DC5, [*_FEW_ROIS, *_MSRA]),
    "R18-FPN": (_MASK_FPN, ["MODEL.MASK_ON", "False"]),
    "R18-FPN-mask": (_MASK_FPN, []),
    "R50-FPN-mask-MSRA": (_MASK_FPN, [*_R50, *_MSRA]),
    "R18-C4-mask": (_MASK_C4, []),
    "R50-C4-mask": (_MASK_C4, _R50),
    "R18-FPN-keypoint": (_KEYPOINT_FPN, []),
    "R18-FPN-keypoint-mask": (_KEYPOINT_FPN, ["MODEL.MASK_ON", "True"]),
    "R50-DC5-keypoint": (_DC5, [*_FEW_ROIS, *_KEYPOINTS]),
}


def sets(name: str) -> tuple[str, str, str]:
    """The spec file of the generated set that an architecture is trained on, and the names of its two splits."""
    if "keypoint" in name:
        return "keypoints.yaml", "generated_keypoints_train", "generated_keypoints_val"
    if "mask" in name:
        return "coco.yaml", "generated_coco_train", "generated_coco_val"
    return "voc.yaml", "generated_trainval", "generated_test"


def options(name: str, generated: Path, output: Path) -> list[str]:
    """Options on top of an architecture's config: the generated set in the layout that it needs, a run of seconds."""
    config, opts = ARCHITECTURES[name]
    file, train, test = sets(name)
    pooler = [] if "FPN" in name else ["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "4"]
    return [
        "DATASETS.SPECS", f"('{generated}/{file}',)",
        "DATASETS.TRAIN", f"('{train}',)",
        "DATASETS.TEST", f"('{test}',)",
        "MODEL.ROI_HEADS.NUM_CLASSES", str(1 if "keypoint" in name else len(CLASS_NAMES)),
        "MODEL.DEVICE", "cpu",
        "INPUT.MIN_SIZE_TRAIN", "(64, 80)",
        "INPUT.MIN_SIZE_TEST", "64",
        "INPUT.MAX_SIZE_TRAIN", "213",
        "INPUT.MAX_SIZE_TEST", "213",
        *pooler,
        "DATALOADER.NUM_WORKERS", "0",
        "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.MAX_ITER", "6",
        "SOLVER.STEPS", "(4,)",
        "SOLVER.WARMUP_ITERS", "2",
        "SOLVER.CHECKPOINT_PERIOD", "2",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
        "MODEL.RPN.POST_NMS_TOPK_TEST", "32",
        "TEST.PRECISE_BN.NUM_ITER", "2",
        "SEED", "3",
        "OUTPUT_DIR", str(output / "run"),
        *opts,
    ]  # fmt: skip
