"""Pre-trains on labelled images: makes the baseline of the papers' supervised rows under the same conditions.

Shape shorthand:
    N: images of this process
"""

from __future__ import annotations

import logging

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.data.augment import OneCrop
from pretrain.data.labelled import LabelledImages, find_labelled
from pretrain.mechanisms.base import AMP, BANK_KEYS, Encoder, Mechanism, Size, refuse_shuffle
from pretrain.runtime.config import ConfigError

LOG = logging.getLogger(__name__)


class Supervised(nn.Module):
    """Trains an encoder whose `fc` has one output per class.

    The state dict holds `encoder_q.*`, named as other mechanisms name the encoder that is taken from them.

    Args:
        base_encoder: called as `base_encoder(num_classes=...)`.
        num_classes: outputs of `fc`.
        amp: lower precision for the encoder's arithmetic (autocast), None for none; logits are returned in float32.
    """

    def __init__(self, base_encoder: Encoder, num_classes: int, amp: torch.dtype | None = None):
        super().__init__()
        self.encoder_q, self.amp = base_encoder(num_classes=num_classes), amp

    def forward(self, images: Tensor, labels: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Returns the logits (N/parts x classes) and the labels (N/parts) of a micro-batch.

        Args:
            images: N/parts x 3 x H x W: the images of this micro-batch.
            labels: N: the labels of the whole step.
            part, parts: which micro-batch this is, of how many.
        """
        with torch.autocast(images.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits = self.encoder_q(images)
        return logits.to(next(self.encoder_q.parameters()).dtype), labels.chunk(parts)[part]


def _images(cfg: CfgNode) -> LabelledImages:
    found = find_labelled(cfg.DATA.TRAIN, "DATA.TRAIN")
    if len(found.classes) < 2:
        raise ConfigError(
            f"DATA.TRAIN '{cfg.DATA.TRAIN}' holds one class, '{found.classes[0]}', which leaves MODEL.MECHANISM "
            "supervised nothing to tell apart; give images of two classes or more"
        )
    LOG.info("labels: %d classes of '%s'", len(found.classes), cfg.DATA.TRAIN)
    return found


def _build(cfg: CfgNode, encoder: Encoder, size: Size) -> Supervised:
    return Supervised(encoder, size.classes, AMP[cfg.SOLVER.AMP])


SUPERVISED = Mechanism(
    build=_build,
    pretext=lambda cfg: "telling the class of the training images",
    images=_images,
    views=OneCrop,
    check=lambda cfg: refuse_shuffle(cfg, "which has no keys"),
    no_effect=("MODEL.DIM", "MODEL.K", "MODEL.M", "MODEL.T", "MODEL.MLP", *BANK_KEYS),
    monitor=None,
)
