"""A metric as a value: its key in results, what tables call it, and how far it may be from a published number.

Reports, verdicts and status read labels and rules from here and name no metric of their own. Imports nothing heavy, so
that `tools/status.py` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """When a difference from a published number is noise, in the metric's points.

    Either `std` or `gap` is given. `std`: the published number is a mean over `trials` fine-tunings of one checkpoint,
    whose standard deviation is about this; Welch's t-test at 5% decides. `gap`: the published number is of one run, and
    a difference up to this is within variation.

    Attributes:
        needs: trials of ours without which there is no verdict.
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
        """What a report says of the rule, after "judged by"."""
        if self.std is None:
            return f"a gap of at most {self.gap:g}, the published number being of one run"
        return f"Welch's t-test at 5%, the published mean taken as of {self.trials} trials with std {self.std:g}"


@dataclass(frozen=True)
class Metric:
    """One number of a result.

    Attributes:
        key: its name in `RunResult.metrics`, e.g. "segm/AP".
        label: what a table's head calls it, e.g. "mask AP".
        rule: how a difference from a published number is judged; None where nobody has said.
        per_class: whether the protocol gives it per class, under the same key.
    """

    key: str
    label: str
    rule: Rule | None = None
    per_class: bool = False


def full_key(name: str) -> str:
    """The key of a metric as experiment files write it: `AP50` is `bbox/AP50`, `segm/AP` is itself."""
    return name if "/" in name else f"bbox/{name}"
