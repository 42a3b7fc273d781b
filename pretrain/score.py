"""Turns what a mechanism returns into the loss of a step, and into the scalars that are logged with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

Scored = tuple[Tensor, dict[str, Tensor]]  # the loss, with a gradient; by name, scalars without (acc...: in percent)
Score = Callable[[Any], Scored]


def classification(output: tuple[Tensor, Tensor], loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> Scored:
    """Scores logits (N x choices) and labels (N): every mechanism here asks which of its choices is the right one.

    Args:
        output: (logits, labels).
        loss: a function of logits and labels that returns the mean over N; the cross-entropy of similarities is
            InfoNCE.

    Returns:
        The loss, and acc1: the share (percent) of rows whose largest logit is at the label.
    """
    logits, labels = output
    return loss(logits, labels), {"acc1": 100 * (logits.detach().argmax(dim=1) == labels).float().mean()}
