"""Keeps one stored feature per image as its key (arXiv:1911.05722, figure 2b; arXiv:1805.01978), by InfoNCE or by NCE.

Shape shorthand:
    N: images of this process   B: images of all processes   n: images of the training set
    C: length of a feature      K: negatives drawn from the bank
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.data.augment import OneCrop
from pretrain.encoders import add_mlp_head, unit_features
from pretrain.mechanisms.base import Encoder, Mechanism, Size, contrastive, refuse_shuffle
from pretrain.runtime.config import ConfigError
from pretrain.runtime.dist import all_gather, broadcast
from pretrain.score import Score, classification


class MemoryBank(nn.Module):
    """Keeps one feature per training image, which follows the queries with a momentum (figure 2b; arXiv:1805.01978).

    There is one encoder and one view. The positive key of an image is its row of the bank; the negatives are K rows
    drawn uniformly and with replacement, anew for each mini-batch and the same for all its queries and processes (an
    image's own row is not excluded). After the step the rows of the mini-batch become unit(m row + (1-m) q).

    The state dict holds `encoder_q.*`, `bank` (n x C, unit rows) and `Z` (the constant of NCE; 0 until known).

    Args:
        base_encoder, dim, T, mlp, amp: as in MoCo.
        num_images: n.
        K: negatives, at most n.
        m: momentum of the stored feature, in [0, 1].
        nce: whether to return logits for the loss `nce` instead of the cross-entropy.

    Raises:
        ValueError: K is above n.
    """

    bank: Tensor
    Z: Tensor
    _rows: Tensor  # K x C: the negatives of the step under way
    _queries: list[Tensor]  # of N/parts x C: its queries so far

    def __init__(
        self,
        base_encoder: Callable[..., nn.Module],
        num_images: int,
        dim: int = 128,
        K: int = 65536,
        m: float = 0.5,
        T: float = 0.07,
        mlp: bool = False,
        nce: bool = False,
        amp: torch.dtype | None = None,
    ):
        super().__init__()
        if K > num_images:
            raise ValueError(
                f"K={K} negatives cannot be drawn from a bank of {num_images} images; take at most as many"
            )
        self.K, self.m, self.T, self.nce, self.amp = K, m, T, nce, amp
        self.encoder_q = base_encoder(num_classes=dim)
        if mlp:
            add_mlp_head(self.encoder_q)
        self.register_buffer("bank", F.normalize(torch.randn(num_images, dim), dim=1))  # n x C
        self.register_buffer("Z", torch.zeros(()))
        self._knows_Z = False  # spares the device a look at Z in every step

    def forward(self, im_q: Tensor, index: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Computes one step up to the loss; the gradient reaches the encoder only.

        A step may come in `parts` micro-batches as in `MoCo.forward`: they share their negatives, and the bank moves
        once.

        Args:
            im_q: N/parts x 3 x H x W: one view of each image of this micro-batch.
            index: N: the numbers of the images of the whole step, 0 <= index < n.
            part, parts: which micro-batch this is, of how many.

        Returns:
            Logits (N/parts x (1+K)) with the positive in column 0, and labels (N/parts, all zero).
        """
        q = unit_features(self.encoder_q, im_q, self.amp)  # N/parts x C
        if part == 0:
            chosen = torch.randint(len(self.bank), (self.K,), pin_memory=index.is_cuda)  # pinned: nobody waits
            chosen = broadcast(chosen.to(index.device, non_blocking=True))  # K
            self._rows, self._queries = self.bank[chosen], []
        k = self.bank[index.chunk(parts)[part]]  # N/parts x C
        l_pos = torch.einsum("nc,nc->n", q, k).unsqueeze(1)  # N/parts x 1
        l_neg = torch.einsum("nc,kc->nk", q, self._rows)  # N/parts x K
        logits = torch.cat([l_pos, l_neg], dim=1) / self.T  # N/parts x (1+K)
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)  # N/parts

        self._queries.append(q.detach())
        if part == parts - 1:
            self._update_bank(torch.cat(self._queries), index)
        return (self._log_odds(logits) if self.nce else logits), labels

    @torch.no_grad()
    def _update_bank(self, q: Tensor, index: Tensor) -> None:
        """Moves the stored features with momentum. Every process writes all B rows, so that their banks stay equal."""
        q, index = all_gather(q), all_gather(index)  # B x C, B
        self.bank.index_copy_(0, index, F.normalize(self.m * self.bank[index] + (1 - self.m) * q, dim=1))

    def _log_odds(self, logits: Tensor) -> Tensor:
        """Turns v.q/T into log(P(v|q) / (K/n)), the log odds that v is q's image and not one of K uniform draws.

        P(v|q) = exp(v.q/T) / Z. Z is taken to be a constant, n times the mean of exp(v.q/T) over the first mini-batch.
        """
        if not self._knows_Z and not self.Z:
            self.Z.copy_(len(self.bank) * all_gather(logits.detach().exp().mean().unsqueeze(0)).mean())
        self._knows_Z = True
        return logits - self.Z.log() - math.log(self.K / len(self.bank))


def nce(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes noise-contrastive estimation, the mean over queries of -log h(k+) - (sum over k- of log(1 - h(k-))).

    Args:
        logits: N x (1+K), log odds of being the positive: h = sigmoid(logits).
        labels: N, the column of the positive.
    """
    truth = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(logits)


def _build(cfg: CfgNode, encoder: Encoder, size: Size) -> MemoryBank:
    model = cfg.MODEL
    if model.K > size.images:
        raise ConfigError(
            f"MODEL.K {model.K} negatives cannot be drawn from a memory bank of {size.images} images; "
            f"set MODEL.K to at most {size.images}"
        )
    how = {"K": model.K, "m": model.BANK_MOMENTUM, "nce": model.BANK_LOSS == "nce"}
    return MemoryBank(encoder, size.images, **how, **contrastive(cfg))


def _score(cfg: CfgNode) -> Score:
    return partial(classification, loss=nce) if cfg.MODEL.BANK_LOSS == "nce" else classification


MEMORY_BANK = Mechanism(
    build=_build,
    pretext=lambda cfg: f"picking the positive among {cfg.MODEL.K} negatives",
    views=OneCrop,
    check=lambda cfg: refuse_shuffle(cfg, "whose keys are not encoded with the queries"),
    no_effect=("MODEL.M",),
    score=_score,
)
