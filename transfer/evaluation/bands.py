"""How far a result may lie from a published one before the difference means something.

Two sources of variation are known: the published spread over trials, and the spread of one's own. Published means are
of five trials on VOC and of one on COCO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

EXPECTED_STD = {"AP50": 0.2, "AP": 0.2, "AP75": 0.4}
"""VOC: standard deviation over fine-tuning trials of one checkpoint, in points of AP (fine-tuning notes of MoCo)."""

COCO_GAP = 0.3
"""COCO: a difference in AP up to this is within variation, by the same notes."""


@dataclass(frozen=True)
class Verdict:
    """`status`: "within" or "outside" noise, or "open" (one trial says nothing). `text`: the same for a reader."""

    status: Literal["within", "outside", "open"]
    text: str


def compare(
    n: int, mean: float, std: float, published: float, expected_std: float, published_trials: int = 5
) -> Verdict:
    """Whether the mean of `n` trials agrees with a published mean; all numbers are points of AP.

    The difference is noise if it is at most twice its standard error, the larger of `std` and `expected_std` taken for
    both means: 2 * s * sqrt(1/n + 1/published_trials). One trial gets no verdict.

    Args:
        std: over our trials, with n - 1 in the denominator; not looked at for n = 1.

    Raises:
        ValueError: no trials, or a negative or undefined number.
    """
    _require(n, mean, published, expected_std)
    gap = mean - published
    if n == 1:
        return Verdict("open", f"{mean:.1f}, {gap:+.1f} from the published {published:.1f}; one trial gives no verdict")
    if not std >= 0:
        raise ValueError(f"std is {std}; give the standard deviation over the {n} trials")
    limit = 2 * max(std, expected_std) * math.sqrt(1 / n + 1 / published_trials)
    return _verdict(gap, limit, f"{mean:.1f} +/- {std:.1f} over {n} trials", published)


def compare_coco(n: int, mean: float, published: float) -> Verdict:
    """The same for COCO, where the published number is of one trial: a gap up to `COCO_GAP` is within variation.

    Raises:
        ValueError: no trials, or an undefined number.
    """
    _require(n, mean, published, COCO_GAP)
    gap = mean - published
    if n == 1:
        return Verdict(
            "open",
            f"{mean:.1f}, {gap:+.1f} from the published {published:.1f}, where {COCO_GAP} is usual; "
            "one trial gives no verdict",
        )
    return _verdict(gap, COCO_GAP, f"{mean:.1f} over {n} trials", published)


def _verdict(gap: float, limit: float, ours: str, published: float) -> Verdict:
    if abs(gap) <= limit + 1e-9:
        return Verdict(
            "within", f"{ours}: within noise of the published {published:.1f} ({gap:+.1f}, noise {limit:.1f})"
        )
    side = "above" if gap > 0 else "below"
    return Verdict(
        "outside", f"{ours}: {abs(gap):.1f} {side} the published {published:.1f}, beyond noise ({limit:.1f})"
    )


def _require(n: int, mean: float, published: float, expected_std: float) -> None:
    if n < 1:
        raise ValueError(f"{n} trials: nothing to compare")
    if not (math.isfinite(mean) and math.isfinite(published) and expected_std >= 0):
        raise ValueError(f"cannot compare {mean} with {published} (expected std {expected_std}): give finite numbers")
