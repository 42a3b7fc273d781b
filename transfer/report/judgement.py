"""Whether the papers' qualitative findings show: two rows of a table each, judged by their 95% intervals.

A finding *shows* where the intervals of both means are apart in the direction that the paper says, which is stricter
than Welch's t-test at 5%; *reversed* where they are apart in the other; *does not show* where they overlap. It is open
until every trial of both rows is there, and of fewer than two trials.
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
    """A finding with its numbers, in points; None where they are not there yet.

    Attributes:
        row, than: means and spreads of the row that is to be above, and of the one beneath it.
        versus: the test of their difference.
    """

    finding: Finding
    row: Statistic | None
    than: Statistic | None
    versus: Comparison | None
    verdict: Verdict

    @property
    def numbers(self) -> str:
        """Both means, their difference and its interval, in words; empty while it is open."""
        if self.versus is None:
            return ""
        words = self.versus.words.rpartition(": ")[0] or self.versus.words
        return f"{self.row} against {self.than} ({self.finding.metric.label}): {words}"

    @property
    def words(self) -> str:
        """The numbers, or why there are none."""
        if self.row is None or self.than is None:
            return "not all trials are there"
        return self.numbers or "one trial has no spread; it takes 2 or more of each row"


def judge(finding: Finding, row: Statistic | None, than: Statistic | None) -> Judged:
    """The verdict of a finding, of what its two rows have."""
    versus = welch(row, than) if row is not None and than is not None else None
    if row is None or than is None or versus is None:
        return Judged(finding, row, than, None, "open")
    above, beneath = interval(row), interval(than)
    assert above is not None and beneath is not None
    verdict: Verdict = "shows" if above[0] > beneath[1] else "reversed" if above[1] < beneath[0] else "does not show"
    return Judged(finding, row, than, versus, verdict)


def judged(report: ExperimentReport) -> list[Judged]:
    """Every finding of the experiment, in the file's order."""
    found = []
    for finding in report.findings:
        row, than = (
            next(row for c in report.columns if c.name == column.name for row in c.rows if row.name == name)
            for column, name in ((finding.column, finding.row), (finding.than_column, finding.than))
        )
        found.append(judge(finding, row.statistic(finding.metric.key), than.statistic(finding.metric.key)))
    return found


def lines(report: ExperimentReport) -> list[str]:
    """The findings for the terminal."""
    return [f"{j.finding.claim} ({j.finding.source}): {j.verdict}; {j.words}" for j in judged(report)]


def to_json(report: ExperimentReport) -> list[dict[str, Any]]:
    """The findings as JSON values."""
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
