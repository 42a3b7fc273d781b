"""Trains both encoders by back-propagation; the mini-batch is the dictionary (arXiv:1911.05722, section 3.2, fig. 2a).

Shape shorthand:
    N: images of this process   B: images of all processes   C: length of a feature
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.encoders import add_mlp_head, unit_features
from pretrain.mechanisms.base import BANK_KEYS, Encoder, Mechanism, Size, contrastive, refuse_micro_batches
from pretrain.runtime.dist import all_gather_with_gradient, rank
from pretrain.shuffle import shuffle


class EndToEnd(nn.Module):
    """Trains both encoders by back-propagation; the dictionary is the mini-batch (figure 2a).

    Every query has its own key and the B - 1 keys of the other images: the K of this mechanism is B, which is why it
    wants large batches. The key encoder starts as a copy of the query encoder and is trained separately.

    The state dict holds `encoder_q.*` and `encoder_k.*`.

    Args:
        base_encoder: called as `base_encoder(num_classes=dim)`; the module must end in a linear layer `fc`.
        dim: C.
        T: temperature of the softmax, above 0.
        mlp: MoCo v2's head.
        shuffle_bn: shuffling BN, as in MoCo; the gradient flows back through the shuffle.
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
        """Returns the logits (N x B) of two views (N, 3, H, W), and labels (N): the column of each query's own key.

        The gradient reaches both encoders, in all processes: under DistributedDataParallel it is that of the mean loss
        over the B queries.

        Raises:
            ValueError: `parts` is not 1. Micro-batches would see fewer negatives, which would be another training.
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


def _build(cfg: CfgNode, encoder: Encoder, size: Size) -> EndToEnd:
    return EndToEnd(encoder, shuffle_bn=cfg.MODEL.SHUFFLE_BN, **contrastive(cfg))


END_TO_END = Mechanism(
    build=_build,
    pretext=lambda cfg: f"picking the positive among {cfg.SOLVER.BATCH_SIZE - 1} negatives",
    check=refuse_micro_batches,
    no_effect=("MODEL.K", "MODEL.M", *BANK_KEYS),
)
