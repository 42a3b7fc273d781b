"""Momentum Contrast, v1 and v2: Algorithm 1 of arXiv:1911.05722, the MLP head of arXiv:2003.04297.

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

from pretrain.runtime.dist import all_gather
from pretrain.shuffle import shuffle, unshuffle


class MoCo(nn.Module):
    """A query encoder, a key encoder that follows it, and a queue of keys.

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
        shuffle_bn: shuffling BN; it needs several processes, or encoders with several BN groups, to have an effect.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        base_encoder: Callable[..., nn.Module],
        dim: int = 128,
        K: int = 65536,
        m: float = 0.999,
        T: float = 0.07,
        mlp: bool = False,
        shuffle_bn: bool = True,
    ):
        super().__init__()
        self.K, self.m, self.T, self.shuffle_bn = K, m, T, shuffle_bn

        self.encoder_q = base_encoder(num_classes=dim)
        self.encoder_k = base_encoder(num_classes=dim)
        if mlp:
            _widen_head(self.encoder_q)
            _widen_head(self.encoder_k)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)

        self.register_buffer("queue", F.normalize(torch.randn(dim, K), dim=0))  # C x K
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, im_q: Tensor, im_k: Tensor) -> tuple[Tensor, Tensor]:
        """One step of Algorithm 1 up to the loss. The gradient reaches the query encoder only.

        Args:
            im_q: N x 3 x H x W, normalised RGB: one view of each image.
            im_k: the same shape: the other view.

        Returns:
            Logits (N x (1+K), already divided by T) with the positive in column 0, and labels (N, all zero): the
            InfoNCE loss of equation 1 is their cross-entropy.

        Raises:
            ValueError: K is not a multiple of B.
        """
        q = F.normalize(self.encoder_q(im_q), dim=1)  # N x C
        self._update_key_encoder()
        k = self._encode_keys(im_k)  # N x C

        negatives = self.queue.clone()  # C x K; a copy, because backward needs these after the queue has moved on
        l_pos = torch.einsum("nc,nc->n", q, k).unsqueeze(1)  # N x 1
        l_neg = torch.einsum("nc,ck->nk", q, negatives)  # N x K
        logits = torch.cat([l_pos, l_neg], dim=1) / self.T  # N x (1+K)
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)  # N

        self._enqueue(k)
        return logits, labels

    @torch.no_grad()
    def _update_key_encoder(self) -> None:
        """Equation 2, k <- m k + (1-m) q, for parameters; BN statistics of the key encoder are its own.

        Two products and a sum, rounded as the reference rounds them: `lerp_` is faster and as accurate, but differs in
        the last bit, and training is chaotic enough to turn that into another run within five steps.
        """
        for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            param_k.mul_(self.m).add_(param_q * (1 - self.m))

    @torch.no_grad()
    def _encode_keys(self, im_k: Tensor) -> Tensor:
        """N x 3 x H x W -> N x C, encoded among other images than the queries were."""
        if not self.shuffle_bn:
            return F.normalize(self.encoder_k(im_k), dim=1)
        im_k, order = shuffle(im_k)
        return unshuffle(F.normalize(self.encoder_k(im_k), dim=1), order)

    @torch.no_grad()
    def _enqueue(self, k: Tensor) -> None:
        """The keys of all processes replace the oldest B columns. Index arithmetic keeps the pointer on the device."""
        keys = all_gather(k)  # B x C
        B = len(keys)
        if self.K % B:
            raise ValueError(f"a queue of K={self.K} keys is not a multiple of the batch of {B}; change one of them")
        columns = (self.queue_ptr + torch.arange(B, device=keys.device)) % self.K  # B
        self.queue.index_copy_(1, columns, keys.T)
        self.queue_ptr.add_(B).remainder_(self.K)


def _widen_head(encoder: nn.Module) -> None:
    """fc -> (fc.0, ReLU, fc.2), the new layer first, the old one last."""
    fc = encoder.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    encoder.fc = nn.Sequential(nn.Linear(fc.in_features, fc.in_features), nn.ReLU(), fc)
