"""What the rest of pre-training asks about a mechanism, and what several mechanisms share.

A mechanism is a module with one call,

    output = mechanism(views, key, part, parts)

where `views` are those of one micro-batch, and `key` is what leads to the targets of the whole step: second views, the
images' numbers, or their labels. Its `Score` makes a loss and scalars of `output`. Its encoder is named `encoder_q` and
ends in `fc`: that is the trunk that kNN, probes and the converter take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.data.augment import TwoCrops, View
from pretrain.data.images import Images, find_images
from pretrain.data.views import Views
from pretrain.monitor import Watch
from pretrain.runtime.config import ConfigError
from pretrain.score import Score, classification

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BANK_KEYS = ("MODEL.BANK_MOMENTUM", "MODEL.BANK_LOSS")

Encoder = Callable[..., nn.Module]  # called as encoder(num_classes=...)
Monitor = Callable[[int], dict[str, float]]  # iteration -> scalars


class Size(NamedTuple):
    """Of the training set: images, and classes (0 where labels are not read)."""

    images: int = 0
    classes: int = 0


def unlabelled(cfg: CfgNode) -> Images:
    """DATA.TRAIN as images alone. Every process must call: they share the work of indexing shards.

    Raises:
        ConfigError: see `images.find_images`.
    """
    data = cfg.DATA
    return find_images(data.TRAIN, data.INDEX_DIR, data.ON_BAD_SHARD == "truncate", keep=2 * data.SHUFFLE_SHARDS)


@dataclass(frozen=True)
class Mechanism:
    """An entry of `MECHANISMS`: all that config, build and run ask about a mechanism.

    Attributes:
        build: config, encoder and size of the set -> the module, drawn from torch's global generator.
        pretext: what acc1 is the accuracy of, for the log.
        images: reads DATA.TRAIN.
        views: `OneCrop` or `TwoCrops`.
        check: raises ConfigError for what cannot work with this mechanism.
        no_effect: keys that it does not read; the log says so at the start.
        score: config -> the loss and the scalars of a step.
        monitor: module (not wrapped) and batch over all processes -> its health; None if it has none to tell.
        cautions: config and iterations in all -> sentences on what may well go wrong, yet is no error.
    """

    build: Callable[[CfgNode, Encoder, Size], nn.Module]
    pretext: Callable[[CfgNode], str]
    images: Callable[[CfgNode], Images] = unlabelled
    views: Callable[[View], Views] = TwoCrops
    check: Callable[[CfgNode], None] = lambda cfg: None
    no_effect: tuple[str, ...] = ()
    score: Callable[[CfgNode], Score] = lambda cfg: classification
    monitor: Callable[[nn.Module, int], Monitor] | None = Watch
    cautions: Callable[[CfgNode, int], list[str]] = lambda cfg, iterations: []


def contrastive(cfg: CfgNode) -> dict[str, Any]:
    """The arguments that all mechanisms with features on the unit sphere take."""
    return {"dim": cfg.MODEL.DIM, "T": cfg.MODEL.T, "mlp": cfg.MODEL.MLP, "amp": AMP[cfg.SOLVER.AMP]}


def refuse_shuffle(cfg: CfgNode, why: str) -> None:
    """Raises ConfigError if shuffling BN is asked of a mechanism without an encoder for keys."""
    if cfg.MODEL.SHUFFLE_BN:
        raise ConfigError(
            f"MODEL.SHUFFLE_BN has no effect on the {cfg.MODEL.MECHANISM} mechanism, {why}; set it to False"
        )


def refuse_micro_batches(cfg: CfgNode) -> None:
    """Raises ConfigError if micro-batches are asked of a mechanism whose negatives are the mini-batch."""
    if cfg.SOLVER.ACCUMULATE > 1:
        raise ConfigError(
            f"SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} would take negatives away from the {cfg.MODEL.MECHANISM} "
            "mechanism, whose dictionary is the mini-batch; set it to 1 and use more processes, SOLVER.AMP, or a "
            "smaller batch"
        )
