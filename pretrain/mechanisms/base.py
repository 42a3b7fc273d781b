"""Defines what the rest of pre-training asks of a mechanism, and holds what several mechanisms share.

A mechanism is a module with one call,

    output = mechanism(views, key, part, parts)

where `views` are those of one micro-batch, and `key` is what leads to the targets of the whole step: the second views,
the images' numbers, or their labels. The mechanism's `Score` turns `output` into a loss and scalars. Its encoder is
named `encoder_q` and ends in `fc`; kNN, probes and the converter take their trunk from it.
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
    """Holds the size of the training set: the number of images, and of classes (0 where labels are not read)."""

    images: int = 0
    classes: int = 0


def unlabelled(cfg: CfgNode) -> Images:
    """Reads DATA.TRAIN as images without labels. Every process must call this: they share the work of indexing shards.

    Raises:
        ConfigError: see `images.find_images`.
    """
    data = cfg.DATA
    return find_images(data.TRAIN, data.INDEX_DIR, data.ON_BAD_SHARD == "truncate", keep=2 * data.SHUFFLE_SHARDS)


@dataclass(frozen=True)
class Mechanism:
    """Describes an entry of `MECHANISMS`: everything that config, build and run ask about a mechanism.

    Attributes:
        build: makes the module from the config, the encoder and the size of the set; its weights are drawn from torch's
            global generator.
        pretext: says for the log what acc1 is the accuracy of.
        images: reads DATA.TRAIN.
        views: `OneCrop` or `TwoCrops`.
        check: raises ConfigError for settings that cannot work with this mechanism.
        no_effect: config keys that the mechanism does not read; the log names them at the start.
        score: makes from the config the function that computes the loss and the scalars of a step.
        monitor: makes the monitor of the mechanism's health from the module (not wrapped) and the batch size over all
            processes; None if the mechanism has no health to report.
        cautions: returns, for a config and the total number of iterations, sentences on what may well go wrong although
            it is no error.
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
    """Returns the arguments that all mechanisms with features on the unit sphere take."""
    return {"dim": cfg.MODEL.DIM, "T": cfg.MODEL.T, "mlp": cfg.MODEL.MLP, "amp": AMP[cfg.SOLVER.AMP]}


def refuse_shuffle(cfg: CfgNode, why: str) -> None:
    """Raises ConfigError if a mechanism without a key encoder is asked to shuffle BN."""
    if cfg.MODEL.SHUFFLE_BN:
        raise ConfigError(
            f"MODEL.SHUFFLE_BN has no effect on the {cfg.MODEL.MECHANISM} mechanism, {why}; set it to False"
        )


def refuse_micro_batches(cfg: CfgNode) -> None:
    """Raises ConfigError if a mechanism whose negatives are the mini-batch is asked for micro-batches."""
    if cfg.SOLVER.ACCUMULATE > 1:
        raise ConfigError(
            f"SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} would take negatives away from the {cfg.MODEL.MECHANISM} "
            "mechanism, whose dictionary is the mini-batch; set it to 1 and use more processes, SOLVER.AMP, or a "
            "smaller batch"
        )
