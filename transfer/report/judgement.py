"""Judges whether the papers' qualitative findings show; each compares two rows of a table by their 95% intervals.

A finding *shows* if the intervals of both means are apart in the direction that the paper says, which is stricter than
Welch's t-test at 5%; it is *reversed* if they are apart in the other direction, and *does not show* if they overlap. It
is open until all trials of both rows are finished, and if a row has fewer than two trials.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from transfer.report.collected import ExperimentReport
from transfer.trials.aggregate import Statistic
from transfer.trials.rows import Finding
from transfer.trials.significance import Comparison, interval, welch

Verdict = Literal["shows", "does not show", "reversed", "open"]


@dataclass(frozen=True)
class Judged:
    """Holds a finding with its numbers in points; None where they do not exist yet.

    Attributes:
        row, than: mean and spread of the row that should be above, and of the one that should be beneath it.
        versus: the test of their difference.
    """

    finding: Finding
    row: Statistic | None
    than: Statistic | None
    versus: Comparison | None
    verdict: Verdict

    @property
    def numbers(self) -> str:
        """Returns both means, their difference and its interval in words; empty while the finding is open."""
        if self.versus is None:
            return ""
        words = self.versus.words.rpartition(": ")[0] or self.versus.words
        return f"{self.row} against {self.than} ({self.finding.metric.label}): {words}"

    @property
    def words(self) -> str:
        """Returns the numbers, or why there are none."""
        if self.row is None or self.than is None:
            return "not all trials are there"
        return self.numbers or "one trial has no spread; it takes 2 or more of each row"


def judge(finding: Finding, row: Statistic | None, than: Statistic | None) -> Judged:
    """Judges a finding by the statistics of its two rows."""
    versus = welch(row, than) if row is not None and than is not None else None
    if row is None or than is None or versus is None:
        return Judged(finding, row, than, None, "open")
    above, beneath = interval(row), interval(than)
    assert above is not None and beneath is not None
    verdict: Verdict = "shows" if above[0] > beneath[1] else "reversed" if above[1] < beneath[0] else "does not show"
    return Judged(finding, row, than, versus, verdict)


def judged(report: ExperimentReport) -> list[Judged]:
    """Judges every finding of the experiment, in the file's order."""
    found = []
    for finding in report.findings:
        row, than = (
            next(row for c in report.columns if c.name == column.name for row in c.rows if row.name == name)
            for column, name in ((finding.column, finding.row), (finding.than_column, finding.than))
        )
        found.append(judge(finding, row.statistic(finding.metric.key), than.statistic(finding.metric.key)))
    return found


def lines(report: ExperimentReport) -> list[str]:
    """Returns the findings for the terminal."""
    return [f"{j.finding.claim} ({j.finding.source}): {j.verdict}; {j.words}" for j in judged(report)]


def to_json(report: ExperimentReport) -> list[dict[str, Any]]:
    """Returns the findings as JSON values."""
    return [
        {
            "claim": j.finding.claim,
            "source": j.finding.source,
            "column": j.finding.column.name,
            "metric": j.finding.metric.key,
            "row": j.finding.row,
            "than_column": j.finding.than_column.name,
            "than": j.finding.than,
            "verdict": j.verdict,
            "versus": None if j.versus is None else asdict(j.versus),
        }
        for j in judged(report)
    ]
