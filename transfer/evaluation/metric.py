"""Describes metrics: the key in results, the label in tables, and how far one may be from a published number.

Reports, verdicts and status read labels and rules from here and name no metric of their own. This module imports
nothing heavy, so that `tools/status.py` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Says when a difference from a published number is noise, in the metric's points.

    Either `std` or `gap` is given. With `std`, the published number is a mean over `trials` fine-tunings of one
    checkpoint with about this standard deviation, and Welch's t-test at 5% decides. With `gap`, the published number
    is that of one run, and a difference up to `gap` is within variation.

    Attributes:
        needs: number of own trials below which there is no verdict.
    """

    std: float | None = None
    gap: float | None = None
    trials: int = 5

    def __post_init__(self) -> None:
        if (self.std is None) == (self.gap is None):
            raise ValueError("a rule has either an expected standard deviation or a gap")

    @property
    def needs(self) -> int:
        return 1 if self.std is None else 2

    @property
    def words(self) -> str:
        """Returns what a report says about the rule after "judged by"."""
        if self.std is None:
            return f"a gap of at most {self.gap:g}, the published number being of one run"
        return f"Welch's t-test at 5%, the published mean taken as of {self.trials} trials with std {self.std:g}"


@dataclass(frozen=True)
class Metric:
    """Describes one number of a result.

    Attributes:
        key: its name in `RunResult.metrics`, e.g. "segm/AP".
        label: its name in a table's head, e.g. "mask AP".
        rule: how a difference from a published number is judged; None if no rule is known.
        per_class: whether the protocol also gives it per class, under the same key.
    """

    key: str
    label: str
    rule: Rule | None = None
    per_class: bool = False


def full_key(name: str) -> str:
    """Returns the key of a metric as experiment files write it: `AP50` is `bbox/AP50`, `segm/AP` stays as it is."""
    return name if "/" in name else f"bbox/{name}"
