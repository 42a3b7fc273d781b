"""Warns when MoCo stays on the plateau on which queries find their batch instead of their image.

All keys of one step come from one state of the key encoder, and older keys come from earlier states. While the encoder
moves quickly, the easiest way to tell the positive from the queue is to mark *when* a key was made: queries are then as
similar to the keys of all images of their batch as to their own, far from the queue, and the pretext accuracy is high
although nothing is learned. Batch statistics that query and key share (no shuffling BN, or few groups) can serve as
such a mark, too.

What makes keys old is (1 - m) K / B, the share by which the key encoder moves while the queue is filled. It does not
say whether a run gets stuck: 0.08 was enough on small images, and the papers' 0.26 is not too much on ImageNet. So a
config is judged not by this number but by the similarities that are measured; the warning names the number.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from torch import nn

from pretrain.monitor import Watch

LOG = logging.getLogger(__name__)

ADVISED = 0.1  # (1 - m) K / B below which small runs left the plateau by themselves


def batch_share(found: dict[str, float]) -> float:
    """Returns how much of what tells positives from the queue is the batch's: 0 (the image alone) to 1 (the plateau).

    Args:
        found: embedding/positive, embedding/negative and embedding/within_batch, see `monitor`.
    """
    positive, negative = found["embedding/positive"], found["embedding/negative"]
    return (found["embedding/within_batch"] - negative) / (positive - negative)


class PlateauWatch:
    """A `Watch` of MoCo that warns, once, when a run stays on the plateau.

    A run stays on the plateau if the positive's logit is above the queue's by 1 or more, and at least half of that
    difference belongs to the batch; this must hold at every look once the queue is filled, for at least 100 steps and
    for the time it takes to fill the queue twice.

    Args:
        mechanism: `MoCo`, not wrapped in DistributedDataParallel.
        B: images per step, over all processes.
    """

    def __init__(self, mechanism: nn.Module, B: int):
        self.watch, self.B = Watch(mechanism, B), B
        self.K, self.m, self.T = int(mechanism.K), float(mechanism.m), float(mechanism.T)  # type: ignore[arg-type]
        self.patience = max(100, 2 * self.K // B)
        self._since: int | None = None
        self._warned = False

    def __call__(self, iteration: int) -> dict[str, float]:
        """Returns what `Watch` returns, and warns if the run has stayed on the plateau."""
        found = self.watch(iteration)
        if not self._is_plateau(found):
            self._since = None
        elif self._since is None:
            self._since = iteration
        elif not self._warned and iteration - self._since >= self.patience:
            self._warned = True
            LOG.warning("after %d iterations: %s", iteration, self.warning(found))
        return found

    def _is_plateau(self, found: dict[str, float]) -> bool:
        if "embedding/within_batch" not in found or found["queue/filled"] < 1:
            return False
        difference = found["embedding/positive"] - found["embedding/negative"]
        return difference >= self.T and batch_share(found) >= 0.5

    def warning(self, found: dict[str, float]) -> str:
        """Returns one sentence on what was measured, and one on what to set."""
        moved = (1 - self.m) * self.K / self.B
        own, others = found["embedding/positive"], found["embedding/within_batch"]
        measured = (
            f"what tells a query's key ({own:.2f} similar to it) from the queue ({found['embedding/negative']:.2f}) is "
            f"mostly its batch ({others:.2f} to keys of other images): the encoder marks when a key was made (with few "
            "BN groups: who was in its batch), and acc1 says little. "
            f"(1 - MODEL.M) x MODEL.K / SOLVER.BATCH_SIZE = (1 - {self.m:g}) x {self.K} / {self.B} is "
            f"{moved:.2g}"
        )
        if moved <= ADVISED:
            return f"{measured}; if it lasts, lower SOLVER.BASE_LR or MODEL.K, or take more BN groups"
        m = 1 - one_digit(ADVISED * self.B / self.K, math.floor)
        K = int(round(ADVISED / (1 - self.m), 9)) * self.B
        smaller = f", or MODEL.K {K}" if K else ""
        return f"{measured}; at most {ADVISED} helped small runs: MODEL.M {m:g}{smaller}, or a larger batch"


def one_digit(value: float, to_integer: Callable[[float], int]) -> float:
    """Rounds a number above 0 to one significant digit, by `math.floor` or `math.ceil`."""
    digit = 10.0 ** math.floor(math.log10(value))
    return to_integer(round(value / digit, 9)) * digit
