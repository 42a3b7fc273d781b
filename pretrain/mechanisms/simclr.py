"""Trains SimCLR (arXiv:2002.05709): one encoder; two views of an image are each other's key, all other views negatives.

Shape shorthand:
    N: images of this process   B: images of all processes   C: length of a feature
"""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.encoders import add_mlp_head, unit_features
from pretrain.mechanisms.base import (
    BANK_KEYS,
    Encoder,
    Mechanism,
    Size,
    contrastive,
    refuse_micro_batches,
    refuse_shuffle,
)
from pretrain.runtime.dist import all_gather_with_gradient, rank


class SimCLR(nn.Module):
    """Trains one encoder with a loss that goes both ways, against the 2(B - 1) views of the other images.

    The state dict holds `encoder_q.*`. BN sees both views of all images of this process in one batch; with synchronised
    BN, those of all processes.

    Args:
        base_encoder, dim, T, amp: as in MoCo.
        mlp: SimCLR's head, which is MoCo v2's: one hidden layer, as wide as the input of `fc`.
    """

    def __init__(
        self,
        base_encoder: Encoder,
        dim: int = 128,
        T: float = 0.1,
        mlp: bool = True,
        amp: torch.dtype | None = None,
    ):
        super().__init__()
        self.T, self.amp = T, amp
        self.encoder_q = base_encoder(num_classes=dim)
        if mlp:
            add_mlp_head(self.encoder_q)

    def forward(self, im_q: Tensor, im_k: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Returns the logits (2N x (2B - 1)) and the labels (2N) of two views (N, 3, H, W).

        A label is the column of the same image's other view. Rows are the first views, then the second ones; a row's
        columns are all views but itself, in the order of the processes. The gradient reaches every feature, wherever it
        was encoded: under DistributedDataParallel it is that of the mean loss over the 2B rows.

        Raises:
            ValueError: `parts` is not 1. Micro-batches would see fewer negatives, which would be another training.
        """
        if parts != 1:
            raise ValueError("SimCLR takes its negatives from the mini-batch, so it cannot be cut into micro-batches")
        z = unit_features(self.encoder_q, torch.cat([im_q, im_k]), self.amp)  # 2N x C
        similarities = z @ all_gather_with_gradient(z).T / self.T  # 2N x 2B
        rows = torch.arange(len(z), device=z.device)
        own = rank() * len(z) + rows  # 2N: the column of the row itself
        partner = rank() * len(z) + (rows + len(im_q)) % len(z)  # 2N
        others = torch.arange(similarities.shape[1] - 1, device=z.device)  # 2B - 1
        others = others + (others >= own.unsqueeze(1))  # 2N x (2B - 1): one further from the row itself on
        return similarities.gather(1, others), partner - (partner > own).long()


def _build(cfg: CfgNode, encoder: Encoder, size: Size) -> SimCLR:
    return SimCLR(encoder, **contrastive(cfg))


def _check(cfg: CfgNode) -> None:
    refuse_shuffle(cfg, "whose views are encoded together")
    refuse_micro_batches(cfg)


SIMCLR = Mechanism(
    build=_build,
    pretext=lambda cfg: f"picking the positive among {2 * (cfg.SOLVER.BATCH_SIZE - 1)} negatives, both ways",
    check=_check,
    no_effect=("MODEL.K", "MODEL.M", *BANK_KEYS),
)
