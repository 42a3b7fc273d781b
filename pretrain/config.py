"""Defaults of pre-training: every key, its type, its meaning. Unknown keys fail; `check` refuses what cannot work.

The defaults are MoCo v1 on ImageNet (arXiv:1911.05722, section 4.1); a YAML file states only what differs.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime.config import ConfigError

_C = CfgNode()

_C.MODEL = CfgNode()
_C.MODEL.ARCH = "resnet50"  # resnet18 | resnet34 | resnet50 | resnet101
_C.MODEL.DIM = 128  # length of the L2-normalised feature
_C.MODEL.K = 65536  # keys in the queue = negatives per query; a multiple of SOLVER.BATCH_SIZE
_C.MODEL.M = 0.999  # momentum of the key encoder, 0 <= m <= 1
_C.MODEL.T = 0.07  # softmax temperature tau; MoCo v2 takes 0.2
_C.MODEL.MLP = False  # MoCo v2: fc -> fc, ReLU, fc
# Shuffling BN (section 3.3): query and key get batch statistics from different subsets of the mini-batch. The subsets
# are the processes times BN_GROUPS; the papers have 8 (GPUs) of 32 images. One GPU: BN_GROUPS 8 is the same recipe.
_C.MODEL.SHUFFLE_BN = True
_C.MODEL.BN_GROUPS = 1  # parts of each process's batch with their own BN statistics
_C.MODEL.WEIGHTS = ""  # optional start: a MoCo checkpoint (ours or the reference's)

_C.DATA = CfgNode()
_C.DATA.TRAIN = ""  # folder of images, with or without sub-folders, or a .txt file with one path per line
_C.DATA.NUM_WORKERS = 4  # loader processes per training process; 0 loads in the training process
_C.DATA.ON_BAD_IMAGE = "error"  # error | skip: skip counts the image and takes another one

_C.AUG = CfgNode()
_C.AUG.RECIPE = "v1"  # v1 | v2 ("aug+": v1 with blur and weaker hue)
_C.AUG.CROP_SIZE = 224  # pixels
_C.AUG.SCALE = (0.2, 1.0)  # area of the crop over the area of the image

_C.SOLVER = CfgNode()
_C.SOLVER.BATCH_SIZE = 256  # images per iteration, over all processes
_C.SOLVER.BASE_LR = 0.03  # for this batch size; never scaled behind your back
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.WEIGHT_DECAY = 1e-4
_C.SOLVER.EPOCHS = 200
_C.SOLVER.SCHEDULE = "step"  # step | cosine; both constant within an epoch, as in the reference
_C.SOLVER.STEPS = (120, 160)  # step only: epochs (from 0) at which the rate is multiplied by GAMMA
_C.SOLVER.GAMMA = 0.1

_C.CHECKPOINT = CfgNode()  # checkpoint_last.pth.tar is written after every epoch, and
_C.CHECKPOINT.PERIOD = 0  # every so many iterations (0: never)
_C.CHECKPOINT.PERIOD_SECONDS = 1800.0  # when so many seconds have passed, looked at every LOG_PERIOD (0: never)
_C.CHECKPOINT.KEEP_EVERY_EPOCHS = 0  # also keep checkpoint_0009.pth.tar, ... every so many epochs (0: never)

_C.LOG_PERIOD = 20  # iterations between lines of metrics.jsonl; a line is the mean since the line before
_C.TENSORBOARD = True
_C.DEVICE = "auto"  # auto | cpu | cuda
_C.SEED = 0
_C.OUTPUT_DIR = "output/pretrain"

# What may differ between two runs of the same recipe: left out of the digest and of the check at --resume.
RUNTIME_KEYS = (
    "MODEL.WEIGHTS",
    "DATA.TRAIN",
    "DATA.NUM_WORKERS",
    "CHECKPOINT.PERIOD",
    "CHECKPOINT.PERIOD_SECONDS",
    "CHECKPOINT.KEEP_EVERY_EPOCHS",
    "LOG_PERIOD",
    "TENSORBOARD",
    "DEVICE",
    "SEED",
    "OUTPUT_DIR",
)

_CHOICES = {
    "AUG.RECIPE": ("v1", "v2"),
    "SOLVER.SCHEDULE": ("step", "cosine"),
    "DATA.ON_BAD_IMAGE": ("error", "skip"),
    "DEVICE": ("auto", "cpu", "cuda"),
}

_MINIMA = {
    "MODEL.DIM": 1,
    "MODEL.K": 1,
    "MODEL.M": 0,
    "MODEL.BN_GROUPS": 1,
    "DATA.NUM_WORKERS": 0,
    "AUG.CROP_SIZE": 8,
    "SOLVER.BATCH_SIZE": 2,
    "SOLVER.BASE_LR": 0,
    "SOLVER.MOMENTUM": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.EPOCHS": 1,
    "CHECKPOINT.PERIOD": 0,
    "CHECKPOINT.PERIOD_SECONDS": 0,
    "CHECKPOINT.KEEP_EVERY_EPOCHS": 0,
    "LOG_PERIOD": 1,
    "SEED": 0,
}


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults."""
    return _C.clone()


def check(cfg: CfgNode, world_size: int = 1) -> None:
    """Refuses a config that would fail or silently do something else, before anything is built.

    Args:
        cfg: the merged tree.
        world_size: number of training processes; the batch is divided among them.

    Raises:
        ConfigError: one sentence with the key, its value and the remedy.
    """
    for key, choices in _CHOICES.items():
        if (value := _get(cfg, key)) not in choices:
            raise ConfigError(f"{key} is '{value}'; it must be {' or '.join(choices)}")
    for key, minimum in _MINIMA.items():
        if not (value := _get(cfg, key)) >= minimum:  # written so that NaN fails too
            raise ConfigError(f"{key} is {value}; it must be at least {minimum}")
    if cfg.MODEL.M > 1:
        raise ConfigError(f"MODEL.M is {cfg.MODEL.M}; a momentum lies between 0 and 1 (the papers: 0.999)")
    if not cfg.MODEL.T > 0:
        raise ConfigError(f"MODEL.T is {cfg.MODEL.T}; a temperature is above 0 (MoCo v1: 0.07, v2: 0.2)")
    if len(cfg.AUG.SCALE) != 2 or not 0 < cfg.AUG.SCALE[0] <= cfg.AUG.SCALE[1] <= 1:
        raise ConfigError(f"AUG.SCALE is {cfg.AUG.SCALE}; it must be (smallest, largest) share of the area in (0, 1]")
    _check_batch(cfg, world_size)
    if not cfg.DATA.TRAIN:
        raise ConfigError("DATA.TRAIN is empty; give a folder of images or a .txt list, e.g. DATA.TRAIN imagenet/train")


def _check_batch(cfg: CfgNode, world_size: int) -> None:
    batch, groups = cfg.SOLVER.BATCH_SIZE, world_size * cfg.MODEL.BN_GROUPS
    if batch % groups:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE {batch} is not divisible by {groups} BN groups ({world_size} processes x "
            f"MODEL.BN_GROUPS {cfg.MODEL.BN_GROUPS}); take {max(1, batch // groups) * groups}, or other groups"
        )
    if batch // groups < 2:
        raise ConfigError(
            f"{groups} BN groups leave {batch // groups} image of SOLVER.BATCH_SIZE {batch} to each; "
            "statistics need at least 2 (the papers: 32), lower MODEL.BN_GROUPS"
        )
    if cfg.MODEL.K % batch:
        raise ConfigError(
            f"MODEL.K {cfg.MODEL.K} is not a multiple of SOLVER.BATCH_SIZE {batch}; "
            f"take {max(1, cfg.MODEL.K // batch) * batch} (every batch replaces one block of the queue)"
        )
    if cfg.MODEL.SHUFFLE_BN and groups == 1:
        raise ConfigError(
            "MODEL.SHUFFLE_BN has no effect with one process and MODEL.BN_GROUPS 1, because query and key would share "
            "their BN statistics; set MODEL.BN_GROUPS (8 on one device is the papers' recipe) or MODEL.SHUFFLE_BN False"
        )


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
