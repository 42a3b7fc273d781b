"""Enters MoCo into the table of mechanisms; `pretrain.moco` holds the algorithm."""

from __future__ import annotations

import math

from fvcore.common.config import CfgNode

from pretrain.mechanisms.base import BANK_KEYS, Encoder, Mechanism, Size, contrastive
from pretrain.moco import MoCo
from pretrain.plateau import PlateauWatch, one_digit
from pretrain.runtime.config import ConfigError

START_LEFT = 0.1  # of the key encoder's first weights that a run may end with


def _build(cfg: CfgNode, encoder: Encoder, size: Size) -> MoCo:
    return MoCo(encoder, K=cfg.MODEL.K, m=cfg.MODEL.M, shuffle_bn=cfg.MODEL.SHUFFLE_BN, **contrastive(cfg))


def _check(cfg: CfgNode) -> None:
    K, batch = cfg.MODEL.K, cfg.SOLVER.BATCH_SIZE
    if K % batch:
        raise ConfigError(
            f"MODEL.K {K} is not a multiple of SOLVER.BATCH_SIZE {batch}; "
            f"take {max(1, K // batch) * batch} (every batch replaces one block of the queue)"
        )


def _cautions(cfg: CfgNode, iterations: int) -> list[str]:
    """Returns a sentence if the key encoder will still be close to its start when training ends.

    After n steps its weights consist of the first ones with weight m^n, and of those that the query encoder has had
    since.
    """
    m = cfg.MODEL.M
    left = m**iterations
    if left <= START_LEFT:
        return []
    shorter = 1 - one_digit(1 - START_LEFT ** (1 / iterations), math.ceil)
    remedy = f"set MODEL.M {shorter:g} or less, or train longer" if shorter > 0 else "train longer"
    return [
        f"the key encoder ends with {100 * left:.0f}% of its first weights (MODEL.M {m:g} to the power of {iterations} "
        f"iterations), so that its keys are nearly those of its start; {remedy}"
    ]


MOCO = Mechanism(
    build=_build,
    pretext=lambda cfg: f"picking the positive among {cfg.MODEL.K} negatives",
    check=_check,
    no_effect=BANK_KEYS,
    monitor=PlateauWatch,
    cautions=_cautions,
)
