"""Defines the defaults tree: Detectron2's keys with Detectron2's values, plus the few keys of this project.

If Detectron2 is installed, a test compares every value here with its `get_cfg()`; without it the YAML files in
`configs/transfer/` are checked against this tree. What the torchvision engine does with each key is listed in
`transfer.config.support`.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

IMAGENET_MEAN_BGR = [103.530, 116.280, 123.675]

_MODEL: dict[str, Any] = {
    "DEVICE": "cuda",  # taken as "cpu" where there is no GPU; the log and the result say so
    "META_ARCHITECTURE": "GeneralizedRCNN",  # GeneralizedRCNN, or SemanticSegmentor for FCN-16s
    "WEIGHTS": "",  # initial weights; empty = random initialisation
    "PIXEL_MEAN": IMAGENET_MEAN_BGR,  # in the channel order of INPUT.FORMAT, range 0..255
    "PIXEL_STD": [1.0, 1.0, 1.0],  # what is then divided by; MoCo and torchvision: [58.395, 57.120, 57.375] in RGB
    "MASK_ON": False,  # a head of masks beside the box head
    "KEYPOINT_ON": False,  # a head of keypoints beside the box head
    "LOAD_PROPOSALS": False,  # regions from DATASETS.PROPOSAL_FILES_TRAIN and _TEST instead of an RPN
    "BACKBONE": {
        "NAME": "build_resnet_backbone",  # the registered builder: C4, FPN (.._fpn_..), dilated C5 or another width
        "FREEZE_AT": 2,  # stages frozen from the stem on; the papers tune all layers: 0
    },
    "RESNETS": {
        "DEPTH": 50,  # layers
        "OUT_FEATURES": ["res4"],  # the stages whose features are used
        "NUM_GROUPS": 1,  # of the 3x3 convolutions; ResNeXt has 32
        "WIDTH_PER_GROUP": 64,  # channels of a group in res2; each later stage doubles them
        "STEM_OUT_CHANNELS": 64,  # of the 7x7 convolution
        "RES2_OUT_CHANNELS": 256,  # 64 for ResNet-18 and 34
        "NORM": "FrozenBN",  # the papers train it: SyncBN or naiveSyncBN
        "STRIDE_IN_1X1": True,  # MSRA weights: True; torchvision and MoCo weights: False
        "RES5_DILATION": 1,  # 2 lets res5 keep the stride of res4 (dilated C5)
        "DEFORM_ON_PER_STAGE": [False, False, False, False],  # deformable 3x3 convolutions in res2 to res5
        "DEFORM_MODULATED": False,  # deformable convolutions with a mask (version 2)
        "DEFORM_NUM_GROUPS": 1,  # groups of their offsets
    },
    "FPN": {
        "IN_FEATURES": [],  # stages that the pyramid is made of
        "OUT_CHANNELS": 256,  # of every level
        "NORM": "",  # behind its convolutions; empty = none
        "FUSE_TYPE": "sum",  # how a level and the one above it are joined
    },
    "ANCHOR_GENERATOR": {
        "NAME": "DefaultAnchorGenerator",  # the registered class
        "SIZES": [[32, 64, 128, 256, 512]],  # square root of the area, pixels of the network's input
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width
        "ANGLES": [[-90, 0, 90]],  # degrees, of rotated anchors only
        "OFFSET": 0.0,  # of the first anchor's centre, as a share of the stride
    },
    "PROPOSAL_GENERATOR": {
        "NAME": "RPN",  # RPN, or PrecomputedProposals with MODEL.LOAD_PROPOSALS
        "MIN_SIZE": 0,  # pixels; regions with a shorter side are dropped
    },
    "RPN": {
        "HEAD_NAME": "StandardRPNHead",  # the registered class
        "IN_FEATURES": ["res4"],  # features that have anchors; of a pyramid all levels
        "BOUNDARY_THRESH": -1,  # pixels that an anchor to train on may cross the border by; -1: any
        "IOU_THRESHOLDS": [0.3, 0.7],  # an anchor's overlap with an object: what parts the IOU_LABELS
        "IOU_LABELS": [0, -1, 1],  # from low to high overlap: 0 background, -1 ignored, 1 object
        "BATCH_SIZE_PER_IMAGE": 256,  # anchors per image in the losses
        "POSITIVE_FRACTION": 0.5,  # the share of them on objects, at most
        "BBOX_REG_LOSS_TYPE": "smooth_l1",  # smooth_l1, or Detectron2's giou, diou, ciou
        "BBOX_REG_LOSS_WEIGHT": 1.0,  # of the box loss, times LOSS_WEIGHT
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),  # what the targets dx, dy, dw, dh are multiplied by
        "SMOOTH_L1_BETA": 0.0,  # 0 = L1
        "LOSS_WEIGHT": 1.0,  # of both losses of the RPN
        "PRE_NMS_TOPK_TRAIN": 12000,  # best regions of each level before NMS, in training
        "PRE_NMS_TOPK_TEST": 6000,  # the same in testing
        "POST_NMS_TOPK_TRAIN": 2000,  # best regions of an image behind NMS, in training
        "POST_NMS_TOPK_TEST": 1000,  # the same in testing
        "NMS_THRESH": 0.7,  # overlap above which the region of the lower score goes
        "CONV_DIMS": [-1],  # channels of the head's 3x3 convolutions; -1: as many as its features have
    },
    "ROI_HEADS": {
        "NAME": "Res5ROIHeads",  # the registered class: Res5ROIHeads (C4) or StandardROIHeads
        "NUM_CLASSES": 80,  # foreground classes; background is the last index
        "IN_FEATURES": ["res4"],  # features that regions are pooled from
        "IOU_THRESHOLDS": [0.5],  # a region's overlap with an object: what parts the IOU_LABELS
        "IOU_LABELS": [0, 1],  # from low to high overlap: 0 background, 1 object
        "BATCH_SIZE_PER_IMAGE": 512,  # regions per image in the losses
        "POSITIVE_FRACTION": 0.25,  # the share of them on objects, at most
        "SCORE_THRESH_TEST": 0.05,  # detections of a lower score are dropped
        "NMS_THRESH_TEST": 0.5,  # overlap above which the detection of the lower score goes, within a class
        "PROPOSAL_APPEND_GT": True,  # annotated boxes are regions too, in training
    },
    "ROI_BOX_HEAD": {
        "NAME": "",  # the registered class; empty where res5 is the head
        "BBOX_REG_LOSS_TYPE": "smooth_l1",  # smooth_l1, or Detectron2's giou, diou, ciou
        "BBOX_REG_LOSS_WEIGHT": 1.0,  # of the box loss
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),  # what the targets dx, dy, dw, dh are multiplied by
        "SMOOTH_L1_BETA": 0.0,  # 0 = L1
        "POOLER_RESOLUTION": 14,  # bins along a side of a pooled region
        "POOLER_SAMPLING_RATIO": 0,  # 0 = as many samples as the bin has pixels
        "POOLER_TYPE": "ROIAlignV2",  # ROIAlignV2 is the aligned one
        "NUM_FC": 0,  # hidden fully connected layers
        "FC_DIM": 1024,  # their width
        "NUM_CONV": 0,  # 3x3 convolutions before them
        "CONV_DIM": 256,  # their channels
        "NORM": "",  # behind the convolutions; empty = none
        "CLS_AGNOSTIC_BBOX_REG": False,  # one box per region instead of one per class
        "TRAIN_ON_PRED_BOXES": False,  # the other heads train on predicted boxes instead of regions
        "USE_FED_LOSS": False,  # the federated loss, for LVIS
        "USE_SIGMOID_CE": False,  # a sigmoid per class instead of a softmax over all
        "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,  # of a class's images, in drawing the classes of that loss
        "FED_LOSS_NUM_CLASSES": 50,  # how many are drawn
    },
    "ROI_BOX_CASCADE_HEAD": {
        "BBOX_REG_WEIGHTS": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),  # by stage
        "IOUS": (0.5, 0.6, 0.7),  # by stage
    },
    "ROI_MASK_HEAD": {
        "NAME": "MaskRCNNConvUpsampleHead",  # the registered class
        "POOLER_RESOLUTION": 14,  # bins along a side; a mask has twice as many pixels per side
        "POOLER_SAMPLING_RATIO": 0,  # 0 = as many samples as the bin has pixels
        "NUM_CONV": 0,  # 3x3 convolutions before the upsampling
        "CONV_DIM": 256,  # their channels, and the upsampling's
        "NORM": "",  # behind the convolutions; empty = none
        "CLS_AGNOSTIC_MASK": False,  # one mask per detection instead of one per class
        "POOLER_TYPE": "ROIAlignV2",  # ROIAlignV2 is the aligned one
    },
    "ROI_KEYPOINT_HEAD": {
        "NAME": "KRCNNConvDeconvUpsampleHead",  # the registered class
        "POOLER_RESOLUTION": 14,  # bins along a side; heat maps have four times as many pixels per side
        "POOLER_SAMPLING_RATIO": 0,  # 0 = as many samples as the bin has pixels
        "CONV_DIMS": (512,) * 8,  # channels of its 3x3 convolutions
        "NUM_KEYPOINTS": 17,  # 17 of COCO's persons
        "MIN_KEYPOINTS_PER_IMAGE": 1,  # images with fewer are not trained on
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,  # False: by the most there could be
        "LOSS_WEIGHT": 1.0,  # of the keypoint loss
        "POOLER_TYPE": "ROIAlignV2",  # ROIAlignV2 is the aligned one
    },
    "SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",  # the registered class; the papers' is FCN16sHead
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],  # features that it reads
        "IGNORE_VALUE": 255,  # of pixels in the maps that neither train nor score
        "NUM_CLASSES": 54,  # values of the maps, the background's among them
        "CONVS_DIM": 128,  # channels of its convolutions
        "COMMON_STRIDE": 4,  # pixels of the image per predicted one, before the upsampling
        "NORM": "GN",  # behind its convolutions; empty = none
        "LOSS_WEIGHT": 1.0,  # of its loss
    },
    "PANOPTIC_FPN": {
        "INSTANCE_LOSS_WEIGHT": 1.0,  # of the losses of instances
        "COMBINE": {
            "ENABLED": True,  # join instances and regions of stuff into one map
            "OVERLAP_THRESH": 0.5,  # share of an instance that others may cover
            "STUFF_AREA_LIMIT": 4096,  # pixels; smaller regions of stuff are dropped
            "INSTANCES_CONFIDENCE_THRESH": 0.5,  # instances of a lower score are dropped
        },
    },
    "RETINANET": {
        "NUM_CLASSES": 80,  # foreground classes
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],  # levels with anchors
        "NUM_CONVS": 4,  # 3x3 convolutions of each of its two heads
        "IOU_THRESHOLDS": [0.4, 0.5],  # as in MODEL.RPN
        "IOU_LABELS": [0, -1, 1],  # as in MODEL.RPN
        "PRIOR_PROB": 0.01,  # of an object at the start; sets the last bias
        "SCORE_THRESH_TEST": 0.05,  # as in MODEL.ROI_HEADS
        "TOPK_CANDIDATES_TEST": 1000,  # best detections of each level before NMS
        "NMS_THRESH_TEST": 0.5,  # as in MODEL.ROI_HEADS
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),  # as in MODEL.RPN
        "FOCAL_LOSS_GAMMA": 2.0,  # focal loss: the exponent
        "FOCAL_LOSS_ALPHA": 0.25,  # focal loss: the weight of objects
        "SMOOTH_L1_LOSS_BETA": 0.1,  # 0 = L1
        "BBOX_REG_LOSS_TYPE": "smooth_l1",  # as in MODEL.RPN
        "NORM": "",  # behind its heads' convolutions; empty = none
    },
}

_DEFAULTS: dict[str, Any] = {
    "VERSION": 2,  # of the tree's layout; Detectron2's
    "MODEL": _MODEL,
    "INPUT": {
        "FORMAT": "BGR",  # channel order of the network's input; PIXEL_MEAN and PIXEL_STD follow it
        "MIN_SIZE_TRAIN": (800,),  # lengths of the shorter edge, pixels
        "MIN_SIZE_TRAIN_SAMPLING": "choice",  # choice: one of them; range: a number between the two
        "MAX_SIZE_TRAIN": 1333,  # longest that the longer edge gets, pixels
        "MIN_SIZE_TEST": 800,  # length of the shorter edge, pixels; 0: images are not resized, whatever MAX_SIZE_TEST
        "MAX_SIZE_TEST": 1333,  # longest that the longer edge gets, pixels
        "RANDOM_FLIP": "horizontal",  # of half of the training images
        "CROP": {
            "ENABLED": False,  # train on a part of the image
            "TYPE": "relative_range",  # what SIZE is: a share or pixels, exactly or at least (.._range)
            "SIZE": [0.9, 0.9],  # height and width
        },
        "MASK_FORMAT": "polygon",  # how masks are held in training
    },
    "DATASETS": {
        "TRAIN": (),  # names of data sets (datasets/README.md)
        "TEST": (),  # the same, to evaluate on
        "PROPOSAL_FILES_TRAIN": (),  # with MODEL.LOAD_PROPOSALS: a file per data set of TRAIN
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,  # how many of an image's are taken
        "PROPOSAL_FILES_TEST": (),  # with MODEL.LOAD_PROPOSALS: a file per data set of TEST
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,  # how many of an image's are taken
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,  # loader processes of each training process; 0 loads in it
        "ASPECT_RATIO_GROUPING": True,  # wide images with wide ones, tall with tall: less padding
        "SAMPLER_TRAIN": "TrainingSampler",  # images come alike, rare classes' more often, or a share of them
        "REPEAT_THRESHOLD": 0.0,  # RepeatFactorTrainingSampler: classes in a smaller share of images are repeated
        "REPEAT_SQRT": True,  # RepeatFactorTrainingSampler: by the square root of the missing factor
        "FILTER_EMPTY_ANNOTATIONS": True,  # images without an object are not trained on
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # steps, or a cosine
        "MAX_ITER": 40000,  # iterations
        "BASE_LR": 0.001,  # for IMS_PER_BATCH images; not scaled behind your back
        "BASE_LR_END": 0.0,  # WarmupCosineLR: the rate at the end
        "MOMENTUM": 0.9,  # of SGD
        "NESTEROV": False,  # Nesterov's momentum
        "WEIGHT_DECAY": 0.0001,  # of weights
        "WEIGHT_DECAY_NORM": 0.0,  # of the parameters of norms
        "WEIGHT_DECAY_BIAS": None,  # of biases; None: as of weights
        "BIAS_LR_FACTOR": 1.0,  # rate of biases over that of weights
        "GAMMA": 0.1,  # what the rate is multiplied by at each step
        "STEPS": (30000,),  # iterations of these steps
        "NUM_DECAYS": 3,  # of WarmupStepWithFixedGammaLR
        "WARMUP_FACTOR": 1.0 / 1000,  # of the rate, at iteration 0
        "WARMUP_ITERS": 1000,  # iterations until it has all of the rate
        "WARMUP_METHOD": "linear",  # in between: a line, or the factor all along
        "RESCALE_INTERVAL": False,  # of WarmupMultiStepLR: stretch the steps over the iterations behind the warm-up
        "CHECKPOINT_PERIOD": 5000,  # iterations between checkpoints
        "IMS_PER_BATCH": 16,  # over all processes
        "REFERENCE_WORLD_SIZE": 0,  # processes that the config is for; with others Detectron2 rewrites it. 0: never
        "CLIP_GRADIENTS": {
            "ENABLED": False,  # clip gradients
            "CLIP_TYPE": "value",  # every value, or the norm of each parameter
            "CLIP_VALUE": 1.0,  # the largest that may be
            "NORM_TYPE": 2.0,  # which norm: the exponent
        },
        "AMP": {
            "ENABLED": False,  # mixed precision: float16 where it is safe, on a GPU
        },
    },
    "TEST": {
        "EXPECTED_RESULTS": [],  # that Detectron2 compares with at the end
        "EVAL_PERIOD": 0,  # iterations between evaluations on DATASETS.TEST; 0: at the end alone
        "KEYPOINT_OKS_SIGMAS": [],  # of each keypoint; empty: COCO's
        "DETECTIONS_PER_IMAGE": 100,  # at most, the best
        "AUG": {
            "ENABLED": False,  # test at several scales, and join what is found
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),  # shorter edges, pixels
            "MAX_SIZE": 4000,  # longest that the longer edge gets
            "FLIP": True,  # mirrored too
        },
        "PRECISE_BN": {
            "ENABLED": False,  # statistics of BN computed anew before every evaluation
            "NUM_ITER": 200,  # over so many batches
        },
    },
    "OUTPUT_DIR": "./output",  # where the run writes; one run per folder
    "SEED": -1,  # -1: another one each time
    "CUDNN_BENCHMARK": False,  # let cuDNN try its algorithms at every new size
    "FLOAT32_PRECISION": "",  # torch.set_float32_matmul_precision; empty = torch's own
    "VIS_PERIOD": 0,  # iterations between pictures in TensorBoard; 0: none
    "GLOBAL": {
        "HACK": 1.0,  # kept for Detectron2
    },
}

_ROI_DENSEPOSE_HEAD: dict[str, Any] = {
    "NAME": "",  # the registered class
    "NUM_STACKED_CONVS": 8,  # 3x3 convolutions
    "CONV_HEAD_DIM": 512,  # their channels
    "POOLER_TYPE": "ROIAlignV2",  # ROIAlignV2 is the aligned one
    "POOLER_RESOLUTION": 28,  # bins along a side of a pooled region
    "POOLER_SAMPLING_RATIO": 2,  # samples along a side of a bin
    "HEATMAP_SIZE": 112,  # side of the predicted maps: four times that of the pooled region
    "NUM_COARSE_SEGM_CHANNELS": 2,  # 2: body or not; 15: background and 14 parts
    "DECODER_ON": True,  # a semantic decoder over the levels of the pyramid
    "INDEX_WEIGHTS": 5.0,  # weight of the loss of coarse parts
    "PART_WEIGHTS": 1.0,  # weight of the loss of fine parts (I)
    "POINT_REGRESSION_WEIGHTS": 0.01,  # weight of the losses of U and V
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
        cfg.MODEL.DENSEPOSE_ON = False  # a head of body surfaces beside the box head
        cfg.MODEL.ROI_DENSEPOSE_HEAD = type(cfg)(_ROI_DENSEPOSE_HEAD)  # nodes of one tree must be of one class
    # Semantic segmentation trains on images scaled by a number between these two, then cropped to INPUT.CROP.SIZE.
    cfg.INPUT.RANDOM_SCALE = (1.0, 1.0)


def get_cfg() -> CfgNode:
    """Returns a fresh, mutable copy of the defaults."""
    cfg = CfgNode(_DEFAULTS).clone()
    add_transfer_config(cfg)
    return cfg
