"""Implements Momentum Contrast, v1 and v2: Algorithm 1 of arXiv:1911.05722, and the MLP head of arXiv:2003.04297.

Shape shorthand:
    N: images of this process   B: images of all processes
    C: length of a feature      K: keys in the queue
Letters of the paper: q query, k key, m momentum of the key encoder, T temperature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.encoders import add_mlp_head, unit_features
from pretrain.runtime.dist import all_gather
from pretrain.shuffle import shuffle, unshuffle


class MoCo(nn.Module):
    """Holds a query encoder, a key encoder that follows it, and a queue of keys.

    The state dict is that of the reference implementation: `encoder_q.*`, `encoder_k.*`, `queue` (C x K, unit columns)
    and `queue_ptr` (1, the next column to replace). Random numbers are drawn in the reference's order too, so the same
    `torch.manual_seed` gives the same start.

    Args:
        base_encoder: called as `base_encoder(num_classes=dim)`; the module must end in a linear layer `fc`.
        dim: C.
        K: size of the queue, a multiple of B.
        m: momentum of the key encoder, in [0, 1] (equation 2).
        T: temperature of the softmax, above 0 (equation 1).
        mlp: MoCo v2's head; its hidden layer is as wide as the input of `fc` (2048 for ResNet-50).
        shuffle_bn: whether to shuffle BN, which needs several processes, BN groups or micro-batches to have an effect.
        amp: precision of the encoders' arithmetic; see `unit_features`.

    Attributes:
        latest: for monitors, the queries of the latest micro-batch (N/parts x C, no gradient) and all keys of its step
            (N x C).
    """

    latest: tuple[Tensor, Tensor]
    queue: Tensor
    queue_ptr: Tensor
    _keys: Tensor  # N x C: the keys of the step under way

    def __init__(
        self,
        base_encoder: Callable[..., nn.Module],
        dim: int = 128,
        K: int = 65536,
        m: float = 0.999,
        T: float = 0.07,
        mlp: bool = False,
        shuffle_bn: bool = True,
        amp: torch.dtype | None = None,
    ):
        super().__init__()
        self.K, self.m, self.T, self.shuffle_bn, self.amp = K, m, T, shuffle_bn, amp

        self.encoder_q = base_encoder(num_classes=dim)
        self.encoder_k = base_encoder(num_classes=dim)
        if mlp:
            add_mlp_head(self.encoder_q)
            add_mlp_head(self.encoder_k)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)

        self.register_buffer("queue", F.normalize(torch.randn(dim, K), dim=0))  # C x K
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, im_q: Tensor, im_k: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Computes one step of Algorithm 1 up to the loss. The gradient reaches the query encoder only.

        A step may come in `parts` micro-batches, part 0 first, with nothing in between but backward. Key encoder and
        queue then move once per step, and the whole step is shuffled: `parts` times as many processes would make the
        same step. It differs from one large batch only in BN, which is computed in each micro-batch.

        Args:
            im_q: N/parts x 3 x H x W, normalised RGB: one view of each image of this micro-batch.
            im_k: N x 3 x H x W: the other view of each image of the step, the same tensor for every part.
            part, parts: which micro-batch this is, of how many.

        Returns:
            Logits (N/parts x (1+K), already divided by T) with the positive in column 0, and labels (N/parts, all
            zero): the InfoNCE loss of equation 1 is their cross-entropy.

        Raises:
            ValueError: K is not a multiple of B.
        """
        q = unit_features(self.encoder_q, im_q, self.amp)  # N/parts x C
        if part == 0:
            self._update_key_encoder()
            self._keys = self._encode_keys(im_k, parts)
        k = self._keys.chunk(parts)[part]  # N/parts x C
        self.latest = q.detach(), self._keys

        negatives = self.queue.clone()  # C x K; a copy, because backward needs these after the queue has moved on
        l_pos = torch.einsum("nc,nc->n", q, k).unsqueeze(1)  # N/parts x 1
        l_neg = torch.einsum("nc,ck->nk", q, negatives)  # N/parts x K
        logits = torch.cat([l_pos, l_neg], dim=1) / self.T  # N/parts x (1+K)
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)  # N/parts

        if part == parts - 1:
            self._enqueue(self._keys)
        return logits, labels

    @torch.no_grad()
    def _update_key_encoder(self) -> None:
        """Moves the parameters by equation 2, k <- m k + (1-m) q; the key encoder has BN statistics of its own.

        The update is two products and a sum, rounded as the reference rounds them: `lerp_` is faster and as accurate,
        but differs in the last bit, and training is chaotic enough to turn that into another run within five steps.
        """
        for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            param_k.mul_(self.m).add_(param_q * (1 - self.m))

    @torch.no_grad()
    def _encode_keys(self, im_k: Tensor, parts: int = 1) -> Tensor:
        """Encodes N x 3 x H x W to N x C in `parts` micro-batches, among other images than those of the queries."""
        order = None
        if self.shuffle_bn:
            im_k, order = shuffle(im_k)
        keys = torch.cat([unit_features(self.encoder_k, images, self.amp) for images in im_k.chunk(parts)])
        return keys if order is None else unshuffle(keys, order)

    @torch.no_grad()
    def _enqueue(self, k: Tensor) -> None:
        """Replaces the oldest B columns by the keys of all processes; the pointer never leaves the device."""
        keys = all_gather(k)  # B x C
        B = len(keys)
        if self.K % B:
            raise ValueError(f"a queue of K={self.K} keys is not a multiple of the batch of {B}; change one of them")
        columns = (self.queue_ptr + torch.arange(B, device=keys.device)) % self.K  # B
        self.queue.index_copy_(1, columns, keys.T)
        self.queue_ptr.add_(B).remainder_(self.K)
