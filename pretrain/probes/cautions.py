"""Says what may make a classifier's accuracy lower than its features are worth, for log and result."""

from __future__ import annotations

import math

from fvcore.common.config import CfgNode

from pretrain.probes import view_size
from pretrain.probes.config import is_free
from pretrain.schedule import never_steps

FAR = 10  # times the loss of guessing: a loss above that gets a caution


def at_start(cfg: CfgNode) -> list[str]:
    """Returns what can be said before the training.

    Args:
        cfg: see `config.with_sizes`.
    """
    aug, solver = cfg.AUG, cfg.SOLVER
    other_size = [] if is_free(cfg) else view_size.cautions(cfg.MODEL.WEIGHTS, aug.CROP_SIZE)
    return [
        *never_steps(solver.STEPS, solver.EPOCHS),
        *view_size.shown_share(aug.RESIZE, aug.CROP_SIZE),
        *other_size,
    ]


def worse_than_chance(loss: float, classes: int) -> list[str]:
    """Returns a caution if a loss is far above that of guessing, the logarithm of the number of classes."""
    chance = math.log(classes)
    if loss <= FAR * chance:
        return []
    return [
        f"the validation loss is {loss:.3g}, where guessing among {classes} classes has {chance:.3g}: the rate is too "
        "large for these features; lower SOLVER.BASE_LR, or let SOLVER.STEPS lower it earlier"
    ]
