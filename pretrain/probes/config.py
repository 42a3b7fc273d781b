"""Defines the defaults of linear probe and fine-tuning: every key, its type and its meaning.

One key makes the difference: MODEL.TRUNK. The defaults are the papers' linear protocol on ImageNet (arXiv:1911.05722,
section 4.1): 100 epochs, learning rate 30, weight decay 0; batch, steps and momentum are the reference code's. A YAML
file states only what differs, and `check` refuses configs that cannot work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from pretrain.probes.view_size import resize_for
from pretrain.runtime.config import ConfigError, load, value_at
from pretrain.runtime.limits import DECAY, MAX_SEED, MOMENTUM, at_least, between, check_values

_C = CfgNode()

_C.MODEL = CfgNode()
_C.MODEL.WEIGHTS = ""  # a checkpoint of ours or of the reference, or the state dict of a torchvision ResNet
_C.MODEL.TRUNK = "frozen"  # frozen | free: a linear probe, or fine-tuning; without MODEL.WEIGHTS a free one is random
_C.MODEL.ARCH = ""  # a key of encoders.ARCHITECTURES; empty for what the checkpoint says (torchvision's say nothing)

_C.DATA = CfgNode()
_C.DATA.TRAIN = ""  # a folder of images per class, a .txt list of `path label`, or a .json as iNaturalist's
_C.DATA.VAL = ""  # the same, with the same classes
_C.DATA.NUM_WORKERS = 4  # loader processes per process; 0 loads in it, -1 divides the machine's cores
_C.DATA.ON_BAD_IMAGE = "error"  # error | skip: skip takes another training image; validation images are never skipped

_C.AUG = CfgNode()
_C.AUG.TRAIN = True  # random crop and flip; False takes the view of AUG.RESIZE, and computes every feature only once
_C.AUG.CROP_SIZE = 224  # pixels, training and validation
_C.AUG.SCALE = (0.08, 1.0)  # area of the random crop over the area of the image
_C.AUG.RESIZE = 0  # pixels of the short side before the central crop of validation; 0: AUG.CROP_SIZE x 256 / 224

_C.SOLVER = CfgNode()
_C.SOLVER.BATCH_SIZE = 256  # images per iteration, over all processes
_C.SOLVER.BASE_LR = 30.0  # for BATCH_SIZE images
_C.SOLVER.MOMENTUM = 0.9  # of SGD
_C.SOLVER.WEIGHT_DECAY = 0.0  # of everything that is trained
_C.SOLVER.EPOCHS = 100  # length
_C.SOLVER.STEPS = (60, 80)  # epochs (from 0) at which the rate is multiplied by GAMMA
_C.SOLVER.GAMMA = 0.1  # what the rate is multiplied by at each step
_C.SOLVER.AMP = "off"  # arithmetic of the trunk: off (float32) | bf16 | fp16; the classifier stays in float32

_C.SPEED = CfgNode()
_C.SPEED.CHANNELS_LAST = False  # memory format of trunk and images

_C.CHECKPOINT = CfgNode()  # checkpoint_last.pth.tar is written after every epoch
_C.CHECKPOINT.PERIOD = 0  # and every so many iterations (0: never)
_C.CHECKPOINT.PERIOD_SECONDS = 1800.0  # and when so many seconds have passed, looked at every LOG_PERIOD (0: never)

_C.LOG_PERIOD = 20  # iterations between lines of metrics.jsonl; a line is the mean since the line before
_C.TENSORBOARD = True  # write what metrics.jsonl has for TensorBoard too
_C.DEVICE = "auto"  # auto | cpu | cuda
_C.SEED = 0  # of weights, order and views: it defines the run
_C.OUTPUT_DIR = "output/lincls"  # where the run writes; one run per folder

# What may differ between two runs of the same recipe: left out of the digest and of the check at --resume.
RUNTIME_KEYS = (
    "MODEL.WEIGHTS",
    "DATA.TRAIN",
    "DATA.VAL",
    "DATA.NUM_WORKERS",
    "SPEED.CHANNELS_LAST",
    "CHECKPOINT.PERIOD",
    "CHECKPOINT.PERIOD_SECONDS",
    "LOG_PERIOD",
    "TENSORBOARD",
    "DEVICE",
    "SEED",
    "OUTPUT_DIR",
)

_CHOICES = {
    "MODEL.TRUNK": ("frozen", "free"),
    "DATA.ON_BAD_IMAGE": ("error", "skip"),
    "SOLVER.AMP": ("off", "bf16", "fp16"),
    "DEVICE": ("auto", "cpu", "cuda"),
}

_LIMITS = {
    "DATA.NUM_WORKERS": between(-1, 1024),
    "AUG.CROP_SIZE": between(8, 4096),
    "AUG.SCALE": between(0, 1, open_low=True, sizes=(2, 2)),
    "AUG.RESIZE": between(0, 8192),
    "SOLVER.BATCH_SIZE": between(1, 2**20),
    "SOLVER.BASE_LR": at_least(0),
    "SOLVER.MOMENTUM": MOMENTUM,
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.EPOCHS": at_least(1),
    "SOLVER.STEPS": at_least(0),
    "SOLVER.GAMMA": DECAY,
    "CHECKPOINT.PERIOD": at_least(0),
    "CHECKPOINT.PERIOD_SECONDS": at_least(0),
    "LOG_PERIOD": at_least(1),
    "SEED": between(0, MAX_SEED),
}

_NEEDED = {
    "DATA.TRAIN": "a folder of images per class, or a file of labels, e.g. DATA.TRAIN imagenet/train",
    "DATA.VAL": "a folder of images per class, or a file of labels, e.g. DATA.VAL imagenet/val",
}


def get_lincls_cfg() -> CfgNode:
    """Returns a fresh copy of the defaults."""
    return _C.clone()


_TOOLS = {"frozen": "tools/linear_eval.py", "free": "tools/finetune.py"}


def load_lincls(path: str | os.PathLike[str], opts: Sequence[str], trunk: str) -> CfgNode:
    """Reads the config of a command whose trunk is frozen, or of one whose trunk is free.

    Args:
        opts: `KEY VALUE ...` of the command line.
        trunk: what MODEL.TRUNK must be.

    Raises:
        ConfigError: see `runtime.config.load`; also if the config is one for the other command.
    """
    cfg = load(get_lincls_cfg(), path, opts)
    if (other := cfg.MODEL.TRUNK) != trunk and other in _TOOLS:
        raise ConfigError(f"'{path}': MODEL.TRUNK is {other}, which {_TOOLS[other]} trains; run that, or set {trunk}")
    return cfg


def with_sizes(cfg: CfgNode) -> CfgNode:
    """Returns a frozen copy in which AUG.RESIZE 0 is the number of pixels that it stands for.

    A run says, records and compares this number, so that 256 for a crop of 224 is the same run however asked for.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.AUG.RESIZE = cfg.AUG.RESIZE or resize_for(cfg.AUG.CROP_SIZE)
    cfg.freeze()
    return cfg


def is_free(cfg: CfgNode) -> bool:
    """Returns whether the trunk is trained, too."""
    return bool(cfg.MODEL.TRUNK == "free")


def check(cfg: CfgNode, world_size: int = 1) -> None:
    """Refuses a config that would fail or silently do something else, before anything is built.

    Args:
        cfg: the merged tree.
        world_size: number of processes; the batch is divided among them.

    Raises:
        ConfigError: one sentence with the key, its value and the remedy.
    """
    check_values(cfg, _CHOICES, _LIMITS)
    aug, batch, free = cfg.AUG, cfg.SOLVER.BATCH_SIZE, is_free(cfg)
    if not cfg.MODEL.WEIGHTS and not free:
        raise ConfigError("MODEL.WEIGHTS is empty; give a pre-trained checkpoint")
    if not cfg.MODEL.WEIGHTS and not cfg.MODEL.ARCH:
        raise ConfigError(
            "MODEL.WEIGHTS is empty, so that the trunk starts at random, but MODEL.ARCH does not say which; give "
            "MODEL.ARCH, e.g. resnet50, or a pre-trained checkpoint"
        )
    if free and not aug.TRAIN:
        raise ConfigError("AUG.TRAIN False computes every feature once, which a free trunk cannot; set AUG.TRAIN True")
    if 0 < aug.RESIZE < aug.CROP_SIZE:
        raise ConfigError(
            f"AUG.RESIZE {aug.RESIZE} is below AUG.CROP_SIZE {aug.CROP_SIZE}, so the central crop would be padded; "
            "set AUG.RESIZE 0, which keeps the protocol's proportion of 256 to 224"
        )
    if aug.SCALE[0] > aug.SCALE[1]:
        raise ConfigError(f"AUG.SCALE is {aug.SCALE}; it must be (smallest, largest) share of the area in (0, 1]")
    if not aug.TRAIN and cfg.DATA.ON_BAD_IMAGE == "skip":
        raise ConfigError("DATA.ON_BAD_IMAGE skip has no effect without AUG.TRAIN: no feature is left out; set error")
    if batch % world_size:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE {batch} is not divisible by {world_size} processes; "
            f"take {max(1, batch // world_size) * world_size}"
        )
    if free and batch // world_size < 2:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE {batch} leaves one image to each of {world_size} processes, and BN of a free trunk "
            f"needs the statistics of at least 2; set SOLVER.BATCH_SIZE {2 * world_size} or more"
        )
    for key, what in _NEEDED.items():
        if not value_at(cfg, key):
            raise ConfigError(f"{key} is empty; give {what}")
