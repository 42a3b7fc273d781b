"""Tests whether two means differ by more than chance: intervals, Welch's t-test and effect sizes, from scipy's t.

Welch's test does not assume equal variances. A single trial has no variance, so it gets no interval and no test.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from transfer.evaluation.metric import Rule
from transfer.trials.aggregate import Statistic

LEVEL = 0.95

Status = Literal["within", "above", "below", "open"]


def interval(s: Statistic) -> tuple[float, float] | None:
    """Returns the mean's 95% interval by Student's t with n - 1 degrees of freedom; None for one trial."""
    if s.std is None:
        return None
    if s.std == 0:
        return s.mean, s.mean
    low, high = stats.t.interval(LEVEL, s.n - 1, loc=s.mean, scale=s.std / math.sqrt(s.n))
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Compares one initialisation with another, in points.

    Attributes:
        difference: difference of the means.
        low, high: 95% interval of the difference.
        p: p of Welch's two-sided t-test; None where neither side has any spread, so that there is nothing to test.
        effect: Hedges' g, the difference in pooled standard deviations, corrected for few trials; None as for `p`.
    """

    difference: float
    low: float
    high: float
    p: float | None
    effect: float | None

    @property
    def words(self) -> str:
        """Returns `+2.4 [+2.1, +2.7], p < 0.001, g = 9.8`, and whether that is a difference."""
        if self.p is None or self.effect is None:
            return f"{self.difference:+.1f}, no spread on either side to test it against"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        bounds = f"[{self.low:+.1f}, {self.high:+.1f}]"
        return f"{self.difference:+.1f} {bounds}, {p}, g = {self.effect:.1f}: {self.verdict}"

    @property
    def verdict(self) -> str:
        if self.p is None:
            return "not tested: no spread"
        return "different" if self.p < 1 - LEVEL else "no difference beyond chance"


def welch(ours: Statistic, base: Statistic) -> Comparison | None:
    """Compares two rows; returns None unless both have two trials or more."""
    if ours.std is None or base.std is None:
        return None
    difference = ours.mean - base.mean
    if ours.std == 0 and base.std == 0:
        return Comparison(difference, difference, difference, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns of equal values on one side; the test is defined
        found = stats.ttest_ind(ours.values, base.values, equal_var=False)
    bounds = found.confidence_interval(LEVEL)
    effect = difference / pooled_std(ours, base) * (1 - 3 / (4 * (ours.n + base.n) - 9))
    return Comparison(difference, float(bounds.low), float(bounds.high), float(found.pvalue), effect)


def pooled_std(a: Statistic, b: Statistic) -> float:
    assert a.std is not None and b.std is not None
    return math.sqrt(((a.n - 1) * a.std**2 + (b.n - 1) * b.std**2) / (a.n + b.n - 2))


@dataclass(frozen=True)
class Verdict:
    """Judges our mean against a published one. `words` fit a table's cell; `p` is None where no test was made."""

    status: Status
    words: str
    p: float | None = None

    @property
    def outside(self) -> bool:
        return self.status in ("above", "below")


def judge(ours: Statistic, published: float, rule: Rule) -> Verdict:
    """Judges our mean against a published number by the metric's rule; too few trials for the rule get no verdict.

    Args:
        published: the published number in points.
    """
    if ours.n < rule.needs:
        return Verdict("open", "one trial: no verdict" if ours.n == 1 else f"{ours.n} trials: no verdict")
    gap = ours.mean - published
    if rule.gap is not None:
        return _verdict(gap, abs(gap) <= rule.gap + 1e-9, None)
    _, p = stats.ttest_ind_from_stats(ours.mean, ours.std, ours.n, published, rule.std, rule.trials, equal_var=False)
    return _verdict(gap, bool(p >= 1 - LEVEL), float(p))


def _verdict(gap: float, within: bool, p: float | None) -> Verdict:
    if within:
        return Verdict("within", "within noise of the paper", p)
    side: Status = "above" if gap > 0 else "below"
    return Verdict(side, f"{side} by {abs(gap):.1f} (outside)", p)
