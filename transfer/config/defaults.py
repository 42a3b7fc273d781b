"""The defaults tree: Detectron2's keys with Detectron2's values, plus the few keys of this project.

With Detectron2 installed a test compares every value here with its `get_cfg()`; without it this tree is what the
YAMLs in `configs/transfer/` are checked against. What the torchvision engine does with each key stands in
`transfer.config.support`.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

IMAGENET_MEAN_BGR = [103.530, 116.280, 123.675]

_MODEL: dict[str, Any] = {
    "DEVICE": "cuda",  # taken as "cpu" where there is no GPU; the log and the result say so
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "WEIGHTS": "",  # initial weights; empty = random initialisation
    "PIXEL_MEAN": IMAGENET_MEAN_BGR,  # in the channel order of INPUT.FORMAT, range 0..255
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    "BACKBONE": {
        "NAME": "build_resnet_backbone",
        "FREEZE_AT": 2,  # stages frozen from the stem on; the papers tune all layers: 0
    },
    "RESNETS": {
        "DEPTH": 50,
        "OUT_FEATURES": ["res4"],
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,  # 64 for ResNet-18 and 34
        "NORM": "FrozenBN",  # the papers train it: SyncBN or naiveSyncBN
        "STRIDE_IN_1X1": True,  # MSRA weights: True; torchvision and MoCo weights: False
        "RES5_DILATION": 1,
        "DEFORM_ON_PER_STAGE": [False, False, False, False],
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    },
    "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
    "ANCHOR_GENERATOR": {
        "NAME": "DefaultAnchorGenerator",
        "SIZES": [[32, 64, 128, 256, 512]],  # square root of the area, pixels of the network's input
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width
        "ANGLES": [[-90, 0, 90]],
        "OFFSET": 0.0,
    },
    "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
    "RPN": {
        "HEAD_NAME": "StandardRPNHead",
        "IN_FEATURES": ["res4"],
        "BOUNDARY_THRESH": -1,
        "IOU_THRESHOLDS": [0.3, 0.7],
        "IOU_LABELS": [0, -1, 1],
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "SMOOTH_L1_BETA": 0.0,  # 0 = L1
        "LOSS_WEIGHT": 1.0,
        "PRE_NMS_TOPK_TRAIN": 12000,
        "PRE_NMS_TOPK_TEST": 6000,
        "POST_NMS_TOPK_TRAIN": 2000,
        "POST_NMS_TOPK_TEST": 1000,
        "NMS_THRESH": 0.7,
        "CONV_DIMS": [-1],
    },
    "ROI_HEADS": {
        "NAME": "Res5ROIHeads",
        "NUM_CLASSES": 80,  # foreground classes; background is the last index
        "IN_FEATURES": ["res4"],
        "IOU_THRESHOLDS": [0.5],
        "IOU_LABELS": [0, 1],
        "BATCH_SIZE_PER_IMAGE": 512,
        "POSITIVE_FRACTION": 0.25,
        "SCORE_THRESH_TEST": 0.05,
        "NMS_THRESH_TEST": 0.5,
        "PROPOSAL_APPEND_GT": True,
    },
    "ROI_BOX_HEAD": {
        "NAME": "",
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "SMOOTH_L1_BETA": 0.0,
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,  # 0 = as many samples as the bin has pixels
        "POOLER_TYPE": "ROIAlignV2",
        "NUM_FC": 0,
        "FC_DIM": 1024,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_BBOX_REG": False,
        "TRAIN_ON_PRED_BOXES": False,
        "USE_FED_LOSS": False,
        "USE_SIGMOID_CE": False,
        "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
        "FED_LOSS_NUM_CLASSES": 50,
    },
    "ROI_BOX_CASCADE_HEAD": {
        "BBOX_REG_WEIGHTS": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        "IOUS": (0.5, 0.6, 0.7),
    },
    "ROI_MASK_HEAD": {
        "NAME": "MaskRCNNConvUpsampleHead",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_MASK": False,
        "POOLER_TYPE": "ROIAlignV2",
    },
    "ROI_KEYPOINT_HEAD": {
        "NAME": "KRCNNConvDeconvUpsampleHead",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "CONV_DIMS": (512,) * 8,
        "NUM_KEYPOINTS": 17,
        "MIN_KEYPOINTS_PER_IMAGE": 1,
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
        "LOSS_WEIGHT": 1.0,
        "POOLER_TYPE": "ROIAlignV2",
    },
    "SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "IGNORE_VALUE": 255,
        "NUM_CLASSES": 54,
        "CONVS_DIM": 128,
        "COMMON_STRIDE": 4,
        "NORM": "GN",
        "LOSS_WEIGHT": 1.0,
    },
    "PANOPTIC_FPN": {
        "INSTANCE_LOSS_WEIGHT": 1.0,
        "COMBINE": {
            "ENABLED": True,
            "OVERLAP_THRESH": 0.5,
            "STUFF_AREA_LIMIT": 4096,
            "INSTANCES_CONFIDENCE_THRESH": 0.5,
        },
    },
    "RETINANET": {
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "NUM_CONVS": 4,
        "IOU_THRESHOLDS": [0.4, 0.5],
        "IOU_LABELS": [0, -1, 1],
        "PRIOR_PROB": 0.01,
        "SCORE_THRESH_TEST": 0.05,
        "TOPK_CANDIDATES_TEST": 1000,
        "NMS_THRESH_TEST": 0.5,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "FOCAL_LOSS_GAMMA": 2.0,
        "FOCAL_LOSS_ALPHA": 0.25,
        "SMOOTH_L1_LOSS_BETA": 0.1,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "NORM": "",
    },
}

_DEFAULTS: dict[str, Any] = {
    "VERSION": 2,
    "MODEL": _MODEL,
    "INPUT": {
        "FORMAT": "BGR",  # channel order of the network's input; PIXEL_MEAN and PIXEL_STD follow it
        "MIN_SIZE_TRAIN": (800,),  # lengths of the shorter edge, pixels
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800,
        "MAX_SIZE_TEST": 1333,
        "RANDOM_FLIP": "horizontal",
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
        "MASK_FORMAT": "polygon",
    },
    "DATASETS": {
        "TRAIN": (),
        "TEST": (),
        "PROPOSAL_FILES_TRAIN": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
        "PROPOSAL_FILES_TEST": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "ASPECT_RATIO_GROUPING": True,
        "SAMPLER_TRAIN": "TrainingSampler",
        "REPEAT_THRESHOLD": 0.0,
        "REPEAT_SQRT": True,
        "FILTER_EMPTY_ANNOTATIONS": True,
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 40000,
        "BASE_LR": 0.001,  # for IMS_PER_BATCH images; not scaled behind your back
        "BASE_LR_END": 0.0,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": None,
        "BIAS_LR_FACTOR": 1.0,
        "GAMMA": 0.1,
        "STEPS": (30000,),
        "NUM_DECAYS": 3,
        "WARMUP_FACTOR": 1.0 / 1000,
        "WARMUP_ITERS": 1000,
        "WARMUP_METHOD": "linear",
        "RESCALE_INTERVAL": False,
        "CHECKPOINT_PERIOD": 5000,
        "IMS_PER_BATCH": 16,  # over all processes
        "REFERENCE_WORLD_SIZE": 0,
        "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
        "AMP": {"ENABLED": False},
    },
    "TEST": {
        "EXPECTED_RESULTS": [],
        "EVAL_PERIOD": 0,
        "KEYPOINT_OKS_SIGMAS": [],
        "DETECTIONS_PER_IMAGE": 100,
        "AUG": {
            "ENABLED": False,
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            "FLIP": True,
        },
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
    },
    "OUTPUT_DIR": "./output",
    "SEED": -1,
    "CUDNN_BENCHMARK": False,
    "FLOAT32_PRECISION": "",
    "VIS_PERIOD": 0,
    "GLOBAL": {"HACK": 1.0},
}

_ROI_DENSEPOSE_HEAD: dict[str, Any] = {
    "NAME": "",
    "NUM_STACKED_CONVS": 8,
    "CONV_HEAD_DIM": 512,
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 28,
    "POOLER_SAMPLING_RATIO": 2,
    "HEATMAP_SIZE": 112,  # side of the predicted maps: four times that of the pooled region
    "NUM_COARSE_SEGM_CHANNELS": 2,  # 2: body or not; 15: background and 14 parts
    "DECODER_ON": True,
    "INDEX_WEIGHTS": 5.0,  # of the losses: coarse parts,
    "PART_WEIGHTS": 1.0,  # fine parts (I),
    "POINT_REGRESSION_WEIGHTS": 0.01,  # U and V
}


def add_transfer_config(cfg: CfgNode) -> None:
    """Adds this project's own keys to a Detectron2-shaped tree (ours or a stock `detectron2.config.get_cfg()`)."""
    # Small YAML files that name data sets (see datasets/README.md); relative paths start at the working directory.
    cfg.DATASETS.SPECS = ()
    # Share of the training images that DATALOADER.SAMPLER_TRAIN RandomSubsetTrainingSampler trains on; Detectron2 reads
    # the key, but has no default for it.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    # What SOLVER.AMP.ENABLED computes in: fp16 (Detectron2's, GPUs alone), or bf16, which on the torchvision engine
    # also trains on CPUs.
    cfg.SOLVER.AMP.PRECISION = "fp16"
    # Channels after the 3x3 convolution behind the dilated conv5 (MODEL.BACKBONE.NAME build_dilated_c5_backbone).
    cfg.MODEL.RESNETS.RES5_REDUCED_CHANNELS = 512
    # DensePose, on Detectron2 alone: what our YAMLs set of its project's keys, with the project's values. A tree
    # to which the project's own add_densepose_config has added them keeps what it has.
    if "ROI_DENSEPOSE_HEAD" not in cfg.MODEL:
        cfg.MODEL.DENSEPOSE_ON = False
        cfg.MODEL.ROI_DENSEPOSE_HEAD = type(cfg)(_ROI_DENSEPOSE_HEAD)  # nodes of one tree must be of one class
    # Semantic segmentation trains on images scaled by a number between these two, then cropped to INPUT.CROP.SIZE.
    cfg.INPUT.RANDOM_SCALE = (1.0, 1.0)


def get_cfg() -> CfgNode:
    """A fresh, mutable copy of the defaults."""
    cfg = CfgNode(_DEFAULTS).clone()
    add_transfer_config(cfg)
    return cfg
