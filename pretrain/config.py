"""Defines the defaults of pre-training: every key, its type and its meaning.

They are those of MoCo v1 on ImageNet (arXiv:1911.05722, section 4.1); a YAML file states only what differs. Unknown
keys are errors, and `check` refuses configs that cannot work.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.data.augment import RECIPES
from pretrain.mechanisms import MECHANISMS
from pretrain.optimizers import OPTIMIZERS
from pretrain.runtime.config import ConfigError
from pretrain.runtime.limits import DECAY, MAX_SEED, MOMENTUM, SHARE, above, at_least, between, check_values

_C = CfgNode()

_C.MODEL = CfgNode()
# moco | end_to_end | memory_bank: where keys come from (arXiv:1911.05722, figure 2); simclr: one encoder, both ways
# (arXiv:2002.05709); supervised: class labels instead
_C.MODEL.MECHANISM = "moco"
# resnet18 | resnet34 | resnet50 | resnet101 | resnet50_w2x | resnet50_w4x | resnext50_32x8d, and for machines without a
# GPU resnet50_w0.5x | resnet50_w0.25x | resnet18_w0.5x
_C.MODEL.ARCH = "resnet50"
_C.MODEL.DIM = 128  # length of the L2-normalised feature
# moco: keys in the queue, a multiple of SOLVER.BATCH_SIZE; memory_bank: rows drawn from the bank. Without effect where
# the dictionary is the batch B: end_to_end has B - 1 negatives, simclr 2 (B - 1).
_C.MODEL.K = 65536
_C.MODEL.M = 0.999  # moco: momentum of the key encoder, 0 <= m <= 1
_C.MODEL.T = 0.07  # softmax temperature tau; MoCo v2 takes 0.2, SimCLR 0.1
_C.MODEL.MLP = False  # MoCo v2 and SimCLR: fc -> fc, ReLU, fc
# Shuffling BN (section 3.3): query and key get batch statistics from different subsets of the mini-batch. The subsets
# are the processes times SOLVER.ACCUMULATE times BN_GROUPS; the papers have 8 (GPUs) of 32 images. One GPU: BN_GROUPS 8
# is the same recipe. moco and end_to_end; the others have nothing to shuffle.
_C.MODEL.SHUFFLE_BN = True
_C.MODEL.BN_GROUPS = 1  # parts of each process's batch with their own BN statistics
_C.MODEL.SYNC_BN = False  # BN statistics over all processes instead; GPUs only, and SHUFFLE_BN must be False
_C.MODEL.BANK_MOMENTUM = 0.5  # memory_bank: momentum of the stored features (arXiv:1805.01978's code; MoCo names none)
_C.MODEL.BANK_LOSS = "infonce"  # memory_bank: infonce | nce
_C.MODEL.WEIGHTS = ""  # optional start: a checkpoint (ours of any mechanism, or the reference's)

_C.DATA = CfgNode()
# Folder of images, with or without sub-folders; a .txt file with one path per line; or tar shards in WebDataset's
# layout (labels are not read): one .tar, a pattern such as in-{000000..000146}.tar or in-*.tar, or a .txt list of them.
# supervised: a folder that holds a folder of images per class.
_C.DATA.TRAIN = ""
# Loader processes per training process; 0 loads in the training process, -1 divides the machine's cores among the
# training processes on it.
_C.DATA.NUM_WORKERS = 4
# Gigabytes (10^9 bytes) of memory in each training process in which a small set is kept decoded, the same views to the
# last bit; a larger set is refused. 0: images are decoded when they are used.
_C.DATA.CACHE = 0.0
_C.DATA.ON_BAD_IMAGE = "error"  # error | skip: skip counts the image and takes another one
# Shards only. An epoch takes the shards in a random order, and permutes the images of so many shards together. Loader
# processes keep twice as many open, 256 at most: above 128, images are found more slowly.
_C.DATA.SHUFFLE_SHARDS = 16
# error | truncate: of a shard cut short or damaged, truncate takes the whole images before the damage.
_C.DATA.ON_BAD_SHARD = "error"
_C.DATA.INDEX_DIR = ""  # where indices of shards are kept (a small file each); "": beside the shards

_C.AUG = CfgNode()
# v1 | v2 ("aug+": v1 with blur and weaker hue) | simclr (v2 with twice the jitter) | supervised (crop and flip)
_C.AUG.RECIPE = "v1"
_C.AUG.CROP_SIZE = 224  # pixels
_C.AUG.SCALE = (0.2, 1.0)  # area of the crop over the area of the image
# opencv | pil | gpu: the same draws. pil is torchvision's transforms, what the reference runs; opencv is 3 times
# faster, and its images differ by 0.4 of 255 levels on average; gpu leaves colours, blur and flip to the training GPU,
# which makes pil's images but for roundings of the crop, and spares the loaders that work (docs/performance.md).
_C.AUG.BACKEND = "opencv"

_C.SOLVER = CfgNode()
_C.SOLVER.BATCH_SIZE = 256  # images per iteration, over all processes
# Micro-batches that each process cuts its share into, to need less memory (not end_to_end, simclr). The iteration is
# that of ACCUMULATE times as many processes: one step of SGD, of the momentum and of the queue, with the same shuffle
# and the same negatives for all. BN statistics are those of a micro-batch.
_C.SOLVER.ACCUMULATE = 1
_C.SOLVER.OPTIMIZER = "sgd"  # sgd | lars: rates by layer, for large batches (SimCLR)
_C.SOLVER.BASE_LR = 0.03  # for BATCH_SIZE images, unless REFERENCE_BATCH says otherwise
_C.SOLVER.REFERENCE_BATCH = 0  # not 0: BASE_LR is for so many images, and is scaled linearly to BATCH_SIZE
_C.SOLVER.MOMENTUM = 0.9  # of SGD
_C.SOLVER.WEIGHT_DECAY = 1e-4  # lars: not on vectors (biases, norms)
_C.SOLVER.EPOCHS = 200  # length; 0 with ITERATIONS
_C.SOLVER.ITERATIONS = 0  # length in iterations; EPOCHS must then be 0
_C.SOLVER.SCHEDULE = "step"  # step | cosine: constant within an epoch, as in the reference | exponential: by iteration
_C.SOLVER.WARMUP_EPOCHS = 0  # the rate rises from 0 in a line, iteration by iteration; cosine falls over the rest
_C.SOLVER.STEPS = (120, 160)  # step: epochs (from 0) at which the rate is multiplied by GAMMA
_C.SOLVER.GAMMA = 0.1  # step, exponential
_C.SOLVER.PERIOD = 62500  # exponential: iterations after which the rate is multiplied by GAMMA
# Arithmetic of the encoders: off (float32) | bf16 | fp16 (with a loss scaler). Weights, features, logits and loss stay
# in float32.
_C.SOLVER.AMP = "off"

_C.SPEED = CfgNode()  # what changes speed and rounding, but not the recipe
_C.SPEED.CHANNELS_LAST = False  # memory format of weights and images
_C.SPEED.COMPILE = False  # torch.compile the encoders

_C.CHECKPOINT = CfgNode()  # checkpoint_last.pth.tar is written after every epoch
_C.CHECKPOINT.PERIOD = 0  # and every so many iterations (0: never)
_C.CHECKPOINT.PERIOD_SECONDS = 1800.0  # and when so many seconds have passed, looked at every LOG_PERIOD (0: never)
_C.CHECKPOINT.KEEP_EVERY_EPOCHS = 0  # also keep checkpoint_0009.pth.tar, ... every so many epochs (0: never)

# Iterations between lines of metrics.jsonl; a line is the mean since the line before. Several processes also look here
# whether a signal (SIGTERM, SIGUSR1) asks them to save and stop; one process looks after every iteration.
_C.LOG_PERIOD = 20
_C.TENSORBOARD = True  # write what metrics.jsonl has for TensorBoard too
_C.DEVICE = "auto"  # auto | cpu | cuda
_C.SEED = 0  # of weights, order and views: it defines the run
_C.OUTPUT_DIR = "output/pretrain"  # where the run writes; one run per folder

_C.KNN = CfgNode()  # kNN accuracy during the run; class labels are used here only
_C.KNN.PERIOD = 0  # epochs; 0: never
_C.KNN.TRAIN = ""  # folders of images per class, or files of labels; see labelled.find_labelled
_C.KNN.VAL = ""  # the same, whose images are classified
_C.KNN.TRAIN_IMAGES = 0  # at most so many, evenly spaced; 0: all
_C.KNN.K = 200  # neighbours that vote
_C.KNN.T = 0.07  # temperature of their votes
_C.KNN.RESIZE = 0  # pixels of the short side before the central AUG.CROP_SIZE; 0: AUG.CROP_SIZE x 256 / 224

# What may differ between two runs of the same recipe: left out of the digest and of the check at --resume.
RUNTIME_KEYS = (
    "MODEL.WEIGHTS",
    "DATA.TRAIN",
    "DATA.NUM_WORKERS",
    "DATA.CACHE",
    "DATA.ON_BAD_SHARD",
    "DATA.INDEX_DIR",
    "SPEED.CHANNELS_LAST",
    "SPEED.COMPILE",
    "CHECKPOINT.PERIOD",
    "CHECKPOINT.PERIOD_SECONDS",
    "CHECKPOINT.KEEP_EVERY_EPOCHS",
    "KNN.PERIOD",
    "KNN.TRAIN",
    "KNN.VAL",
    "KNN.TRAIN_IMAGES",
    "KNN.K",
    "KNN.T",
    "KNN.RESIZE",
    "LOG_PERIOD",
    "TENSORBOARD",
    "DEVICE",
    "SEED",
    "OUTPUT_DIR",
)

_CHOICES = {
    "MODEL.MECHANISM": tuple(MECHANISMS),
    "MODEL.BANK_LOSS": ("infonce", "nce"),
    "AUG.RECIPE": tuple(RECIPES),
    "AUG.BACKEND": ("opencv", "pil", "gpu"),
    "SOLVER.OPTIMIZER": tuple(OPTIMIZERS),
    "SOLVER.SCHEDULE": ("step", "cosine", "exponential"),
    "SOLVER.AMP": ("off", "bf16", "fp16"),
    "DATA.ON_BAD_IMAGE": ("error", "skip"),
    "DATA.ON_BAD_SHARD": ("error", "truncate"),
    "DEVICE": ("auto", "cpu", "cuda"),
}

# Upper limits lie far above anything sensible; beyond them memory or time would end a run, not a sentence.
_LIMITS = {
    "MODEL.DIM": between(1, 2**16),
    "MODEL.K": between(1, 2**26),
    "MODEL.M": SHARE,
    "MODEL.T": above(0),
    "MODEL.BN_GROUPS": between(1, 2**16),
    "MODEL.BANK_MOMENTUM": SHARE,
    "DATA.NUM_WORKERS": between(-1, 1024),
    "DATA.CACHE": at_least(0),
    "DATA.SHUFFLE_SHARDS": at_least(1),
    "AUG.CROP_SIZE": between(8, 4096),
    "AUG.SCALE": between(0, 1, open_low=True, sizes=(2, 2)),
    "SOLVER.BATCH_SIZE": between(2, 2**20),
    "SOLVER.BASE_LR": at_least(0),
    "SOLVER.MOMENTUM": MOMENTUM,
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.ACCUMULATE": between(1, 2**16),
    "SOLVER.REFERENCE_BATCH": at_least(0),
    "SOLVER.EPOCHS": at_least(0),
    "SOLVER.ITERATIONS": at_least(0),
    "SOLVER.WARMUP_EPOCHS": at_least(0),
    "SOLVER.PERIOD": at_least(1),
    "SOLVER.STEPS": at_least(0),
    "SOLVER.GAMMA": DECAY,
    "CHECKPOINT.PERIOD": at_least(0),
    "CHECKPOINT.PERIOD_SECONDS": at_least(0),
    "CHECKPOINT.KEEP_EVERY_EPOCHS": at_least(0),
    "KNN.PERIOD": at_least(0),
    "KNN.TRAIN_IMAGES": at_least(0),
    "KNN.K": at_least(1),
    "KNN.T": above(0),
    "KNN.RESIZE": between(0, 8192),
    "LOG_PERIOD": at_least(1),
    "SEED": between(0, MAX_SEED),
}


def get_cfg() -> CfgNode:
    """Returns a fresh copy of the defaults."""
    return _C.clone()


def check(cfg: CfgNode, world_size: int = 1) -> None:
    """Refuses a config that would fail or silently do something else, before anything is built.

    Args:
        cfg: the merged tree.
        world_size: number of training processes; the batch is divided among them.

    Raises:
        ConfigError: one sentence with the key, its value and the remedy.
    """
    check_values(cfg, _CHOICES, _LIMITS)
    if cfg.AUG.SCALE[0] > cfg.AUG.SCALE[1]:
        raise ConfigError(f"AUG.SCALE is {cfg.AUG.SCALE}; it must be (smallest, largest) share of the area in (0, 1]")
    if cfg.KNN.PERIOD and 0 < cfg.KNN.RESIZE < cfg.AUG.CROP_SIZE:
        raise ConfigError(
            f"KNN.RESIZE is {cfg.KNN.RESIZE}; the central crop of AUG.CROP_SIZE {cfg.AUG.CROP_SIZE} must fit into it, "
            "or set KNN.RESIZE 0"
        )
    for key in ("TRAIN", "VAL"):
        if cfg.KNN.PERIOD and not cfg.KNN[key]:
            raise ConfigError(
                f"KNN.{key} is empty; KNN.PERIOD {cfg.KNN.PERIOD} wants a folder with a folder of images per class"
            )
    _check_length(cfg)
    MECHANISMS[cfg.MODEL.MECHANISM].check(cfg)
    _check_sync_bn(cfg)
    _check_batch(cfg, world_size)
    if not cfg.DATA.TRAIN:
        raise ConfigError(
            "DATA.TRAIN is empty; give a folder of images, a .txt list or .tar shards, e.g. DATA.TRAIN imagenet/train"
        )


def check_device(cfg: CfgNode, device: str, world_size: int = 1) -> None:
    """Refuses settings that work on GPUs only if the device is a CPU.

    Args:
        device: cpu | cuda; what DEVICE auto was resolved to.

    Raises:
        ConfigError: one sentence with the key and the remedy.
    """
    if device == "cuda":
        return
    if cfg.MODEL.SYNC_BN and world_size > 1:
        raise ConfigError("MODEL.SYNC_BN works on GPUs only, DEVICE is cpu; set MODEL.SYNC_BN False")
    if cfg.AUG.BACKEND == "gpu":
        raise ConfigError("AUG.BACKEND gpu finishes views on a GPU, DEVICE is cpu; set AUG.BACKEND opencv")


def _check_length(cfg: CfgNode) -> None:
    epochs, iterations = cfg.SOLVER.EPOCHS, cfg.SOLVER.ITERATIONS
    if (epochs > 0) == (iterations > 0):
        raise ConfigError(
            f"SOLVER.EPOCHS is {epochs} and SOLVER.ITERATIONS is {iterations}; one of them is the length of training, "
            "the other must be 0"
        )
    if cfg.SOLVER.SCHEDULE == "cosine" and not epochs:
        raise ConfigError("SOLVER.SCHEDULE cosine goes by epochs; set SOLVER.EPOCHS and SOLVER.ITERATIONS 0")
    warmup = cfg.SOLVER.WARMUP_EPOCHS
    if warmup and not epochs:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {warmup} goes by epochs; set SOLVER.EPOCHS and SOLVER.ITERATIONS 0, or no warm-up"
        )
    if epochs and warmup >= epochs:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {warmup} leaves nothing of SOLVER.EPOCHS {epochs}; the warm-up must be shorter"
        )


def _check_sync_bn(cfg: CfgNode) -> None:
    model = cfg.MODEL
    if model.SYNC_BN and model.SHUFFLE_BN:
        raise ConfigError(
            "MODEL.SYNC_BN gives query and key the same BN statistics, so MODEL.SHUFFLE_BN would have no effect; "
            "set one of them to False"
        )
    if model.SYNC_BN and model.BN_GROUPS > 1:
        raise ConfigError(
            f"MODEL.SYNC_BN and MODEL.BN_GROUPS {model.BN_GROUPS} contradict each other; take one of them"
        )


def _check_batch(cfg: CfgNode, world_size: int) -> None:
    batch, parts = cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.ACCUMULATE
    groups = bn_groups(cfg, world_size)
    if batch % groups:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE {batch} is not divisible by {groups} BN groups ({world_size} processes x "
            f"SOLVER.ACCUMULATE {parts} x MODEL.BN_GROUPS {cfg.MODEL.BN_GROUPS}); "
            f"take {max(1, batch // groups) * groups}, or other groups"
        )
    if batch // groups < 2:
        raise ConfigError(
            f"{groups} BN groups leave {batch // groups} image of SOLVER.BATCH_SIZE {batch} to each; "
            "statistics need at least 2 (the papers: 32), lower MODEL.BN_GROUPS or SOLVER.ACCUMULATE"
        )
    if cfg.MODEL.SHUFFLE_BN and groups == 1:
        raise ConfigError(
            "MODEL.SHUFFLE_BN has no effect with one process and MODEL.BN_GROUPS 1, because query and key would share "
            "their BN statistics; set MODEL.BN_GROUPS (8 on one device is the papers' recipe) or MODEL.SHUFFLE_BN False"
        )


def bn_groups(cfg: CfgNode, world_size: int) -> int:
    """Returns into how many parts with BN statistics of their own the mini-batch is cut (before SYNC_BN joins them)."""
    return int(world_size * cfg.SOLVER.ACCUMULATE * cfg.MODEL.BN_GROUPS)
