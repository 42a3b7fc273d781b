"""How MoCo's keys come about, for the table: `pretrain.moco` holds the algorithm."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.mechanisms.base import BANK_KEYS, Encoder, Mechanism, Size, contrastive
from pretrain.moco import MoCo
from pretrain.runtime.config import ConfigError


def _build(cfg: CfgNode, encoder: Encoder, size: Size) -> MoCo:
    return MoCo(encoder, K=cfg.MODEL.K, m=cfg.MODEL.M, shuffle_bn=cfg.MODEL.SHUFFLE_BN, **contrastive(cfg))


def _check(cfg: CfgNode) -> None:
    K, batch = cfg.MODEL.K, cfg.SOLVER.BATCH_SIZE
    if K % batch:
        raise ConfigError(
            f"MODEL.K {K} is not a multiple of SOLVER.BATCH_SIZE {batch}; "
            f"take {max(1, K // batch) * batch} (every batch replaces one block of the queue)"
        )


MOCO = Mechanism(
    build=_build,
    pretext=lambda cfg: f"picking the positive among {cfg.MODEL.K} negatives",
    check=_check,
    no_effect=BANK_KEYS,
)
