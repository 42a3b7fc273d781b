"""Scales a config to another batch by the authors' rule: rate, iterations, steps and warm-up change together.

The rule for "fewer GPUs" is: batch 16 if it fits; else batch 8, learning rate 0.01, and twice the iterations, steps and
warm-up. Here it is extended to any batch: with k times fewer images per batch the rate is divided by k, and everything
that is counted in iterations is multiplied by k, so that the same number of images is seen. k < 1 scales up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime.config import ConfigError, value_at
from transfer.config.load import digest, load_config

logger = logging.getLogger(__name__)

RATES = ("SOLVER.BASE_LR", "SOLVER.BASE_LR_END")
ITERATIONS = (
    "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD",
)  # fmt: skip


@dataclass(frozen=True)
class Scaling:
    """Holds the changes that bring a config to another batch.

    Attributes:
        rows: (key, value before, value after), the batch first; unchanged keys are left out.
        digest: digest of the config before the changes.
    """

    rows: tuple[tuple[str, Any, Any], ...]
    digest: str

    @property
    def opts(self) -> list[str]:
        """Returns the changes as `KEY VALUE ...`, to be put behind all other options."""
        return [word for key, _, after in self.rows for word in (key, repr(after))]

    def table(self) -> str:
        width = max(len(str(before)) for _, before, _ in self.rows)
        lines = [f"{key:<26}{before!s:>{width}}  ->  {after}" for key, before, after in self.rows]
        return "\n".join([f"{'auto-scale':<26}{'before':>{width}}  ->  after", *lines])

    @property
    def note(self) -> str:
        """Returns one line for the notes of a result."""
        changes = ", ".join(f"{key} {before} -> {after}" for key, before, after in self.rows)
        return f"auto-scaled by the authors' rule from config {self.digest}: {changes}"


def scale(cfg: Mapping[str, Any], images_per_batch: int) -> Scaling | None:
    """Returns what the rule changes in a merged config; None if the config has that batch already.

    Iterations are rounded to the nearest integer (halves up); values of at least 1 stay at least 1, and 0 stays 0.

    Args:
        images_per_batch: images over all processes together.

    Raises:
        ConfigError: the batch is below 1, steps would coincide, or Detectron2 would scale the config once more.
    """
    old = cfg["SOLVER"]["IMS_PER_BATCH"]
    if images_per_batch < 1:
        raise ConfigError(f"--auto-scale {images_per_batch}: give the images per batch, at least 1")
    if cfg["SOLVER"]["REFERENCE_WORLD_SIZE"]:
        raise ConfigError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {cfg['SOLVER']['REFERENCE_WORLD_SIZE']}, by which Detectron2 scales the "
            "config too; set it to 0, or drop --auto-scale"
        )
    if images_per_batch == old:
        return None
    k = Fraction(old, images_per_batch)
    rows: list[tuple[str, Any, Any]] = [("SOLVER.IMS_PER_BATCH", old, images_per_batch)]
    for key in RATES:
        rate = value_at(cfg, key)
        rows.append((key, rate, float(Fraction(str(rate)) / k)))
    for key in ITERATIONS:
        value = value_at(cfg, key)
        after = tuple(_times(k, v) for v in value) if isinstance(value, (list, tuple)) else _times(k, value)
        rows.append((key, tuple(value) if isinstance(value, list) else value, after))
    steps = cfg["SOLVER"]["STEPS"]
    if len({_times(k, step) for step in steps}) < len(set(steps)):
        raise ConfigError(
            f"--auto-scale {images_per_batch}: SOLVER.STEPS {tuple(steps)} would fall together; the schedule is too "
            "short for this batch"
        )
    return Scaling(tuple(row for row in rows if row[1] != row[2]), digest(cfg))


def scaled_options(
    path: str | os.PathLike[str], opts: Sequence[str], defaults: CfgNode, images_per_batch: int | None
) -> tuple[list[str], list[str]]:
    """Returns options that bring a config file to another batch, and notes for its result; logs the table of changes.

    Args:
        opts: the options that the file is used with; what they set is scaled, too.
        images_per_batch: the batch; None changes nothing.

    Returns:
        `opts` with the scaled values behind them, and a line for the notes; nothing is added if nothing changes.

    Raises:
        ConfigError: see `scale` and `load_config`.
    """
    scaling = None if images_per_batch is None else scale(load_config(path, opts, defaults), images_per_batch)
    if scaling is None:
        return list(opts), []
    logger.info("the authors' rule for another batch:\n%s", scaling.table())
    return [*opts, *scaling.opts], [scaling.note]


def _times(k: Fraction, iterations: int) -> int:
    return max(int(k * iterations + Fraction(1, 2)), 1) if iterations > 0 else iterations
