"""The two mechanisms that MoCo is compared with (arXiv:1911.05722, section 3.2 and figure 2), behind MoCo's call.

    logits, labels = mechanism(im_q, key, part, parts)

All three have the same pretext task, encoders, temperature and, unless NCE is asked for, loss: the cross-entropy of
logits and labels. They differ in where keys come from:

    MoCo         key = im_k     a queue of keys, encoded by an encoder that follows the query encoder
    EndToEnd     key = im_k     the mini-batch itself, encoded by a second encoder that is trained too
    MemoryBank   key = index    one stored feature per image, encoded when the image was last seen

Shape shorthand:
    N: images of this process   B: images of all processes   n: images of the training set
    C: length of a feature      K: negatives drawn from the bank
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.encoders import add_mlp_head, unit_features
from pretrain.runtime.dist import all_gather, all_gather_with_gradient, broadcast, rank
from pretrain.shuffle import shuffle


class EndToEnd(nn.Module):
    """Both encoders by back-propagation; the dictionary is the mini-batch (figure 2a).

    Every query has its own key and the B - 1 keys of the other images: the K of this mechanism is B, which is why it
    wants large batches. The key encoder starts as a copy of the query encoder and is trained separately.

    The state dict holds `encoder_q.*` and `encoder_k.*`.

    Args:
        base_encoder: called as `base_encoder(num_classes=dim)`; the module must end in a linear layer `fc`.
        dim: C.
        T: temperature of the softmax, above 0.
        mlp: MoCo v2's head.
        shuffle_bn: shuffling BN, as in MoCo; the gradient finds its way back through the shuffle.
        amp: precision of the encoders' arithmetic, see `unit_features`.
    """

    def __init__(
        self,
        base_encoder: Callable[..., nn.Module],
        dim: int = 128,
        T: float = 0.07,
        mlp: bool = False,
        shuffle_bn: bool = True,
        amp: torch.dtype | None = None,
    ):
        super().__init__()
        self.T, self.shuffle_bn, self.amp = T, shuffle_bn, amp
        self.encoder_q = base_encoder(num_classes=dim)
        self.encoder_k = base_encoder(num_classes=dim)
        if mlp:
            add_mlp_head(self.encoder_q)
            add_mlp_head(self.encoder_k)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())

    def forward(self, im_q: Tensor, im_k: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W), (N, 3, H, W) -> logits N x B, labels N: the column of each query's own key.

        The gradient reaches both encoders, in all processes: under DistributedDataParallel it is that of the mean
        loss over the B queries.

        Raises:
            ValueError: `parts` is not 1. Micro-batches would see fewer negatives, and be another training.
        """
        if parts != 1:
            raise ValueError(
                "end-to-end takes its negatives from the mini-batch, so it cannot be cut into micro-batches"
            )
        q = unit_features(self.encoder_q, im_q, self.amp)  # N x C
        order = None
        if self.shuffle_bn:
            im_k, order = shuffle(im_k)  # images need no gradient, so only the way back has to carry one
        k = all_gather_with_gradient(unit_features(self.encoder_k, im_k, self.amp))  # B x C
        k = k if order is None else k[order.argsort()]
        logits = torch.einsum("nc,bc->nb", q, k) / self.T  # N x B
        labels = rank() * len(q) + torch.arange(len(q), device=q.device)  # N
        return logits, labels


class MemoryBank(nn.Module):
    """One stored feature per training image, following the queries with a momentum (figure 2b; arXiv:1805.01978).

    There is one encoder and one view. The positive key of an image is its row of the bank; the negatives are K rows
    drawn uniformly and with replacement, anew for each mini-batch and the same for all its queries and processes (an
    image's own row is not excluded). After the step the rows of the mini-batch become unit(m row + (1-m) q).

    The state dict holds `encoder_q.*`, `bank` (n x C, unit rows) and `Z` (the constant of NCE; 0 until known).

    Args:
        base_encoder, dim, T, mlp, amp: as in MoCo.
        num_images: n.
        K: negatives, at most n.
        m: momentum of the stored feature, in [0, 1].
        nce: logits for the loss `nce` instead of the cross-entropy.

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
        """One step up to the loss; the gradient reaches the encoder only.

        A step may come in `parts` micro-batches as in `MoCo.forward`: they share negatives, and the bank moves once.

        Args:
            im_q: N/parts x 3 x H x W: one view of each image of this micro-batch.
            index: N: which images those of the whole step are, 0 <= index < n.
            part, parts: which micro-batch this is, of how many.

        Returns:
            Logits (N/parts x (1+K)) with the positive in column 0, and labels (N/parts, all zero).
        """
        q = unit_features(self.encoder_q, im_q, self.amp)  # N/parts x C
        if part == 0:
            chosen = broadcast(torch.randint(len(self.bank), (self.K,)).to(index.device))  # K
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
        """The momentum is on the stored features. All processes write all B rows, so their banks stay equal."""
        q, index = all_gather(q), all_gather(index)  # B x C, B
        self.bank.index_copy_(0, index, F.normalize(self.m * self.bank[index] + (1 - self.m) * q, dim=1))

    def _log_odds(self, logits: Tensor) -> Tensor:
        """v.q/T -> log(P(v|q) / (K/n)), the odds that v is q's image and none of K uniform draws.

        P(v|q) = exp(v.q/T) / Z. Z is taken to be a constant, n times the mean of exp(v.q/T) over the first mini-batch.
        """
        if not self._knows_Z and not self.Z:
            self.Z.copy_(len(self.bank) * all_gather(logits.detach().exp().mean().unsqueeze(0)).mean())
        self._knows_Z = True
        return logits - self.Z.log() - math.log(self.K / len(self.bank))


def nce(logits: Tensor, labels: Tensor) -> Tensor:
    """Noise-contrastive estimation: the mean over queries of -log h(k+) - sum over negatives of log(1 - h(k-)).

    Args:
        logits: N x (1+K), log odds of being the positive: h = sigmoid(logits).
        labels: N, column of the positive.
    """
    truth = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(logits)
