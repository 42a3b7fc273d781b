"""Builds the page's section of the papers' findings; `judgement` says whether they show."""

from __future__ import annotations

from transfer.report.collected import ExperimentReport
from transfer.report.judgement import judged
from transfer.report.markup import Markup, scroll, section, tag


def findings(report: ExperimentReport) -> Markup | None:
    """Returns a table with one row per finding: what the paper says, whether it shows, and by which numbers."""
    found = judged(report)
    if not found:
        return None
    head = tag("tr", *(tag("th", text, scope="col") for text in ("Finding", "Here", "Numbers")))
    body = []
    for j in found:
        why = (
            [tag("small", j.finding.unless, class_="reason")]
            if j.verdict in ("does not show", "reversed") and j.finding.unless
            else []
        )
        claim = tag("th", j.finding.claim, tag("small", j.finding.source), scope="row")
        body.append(tag("tr", claim, tag("td", j.verdict), tag("td", j.words, *why)))
    lead = (
        "A finding shows where the 95% intervals of both means are apart in the direction that the paper says; "
        "reversed where they are apart in the other."
    )
    element = tag("table", tag("thead", head), tag("tbody", *body))
    card = tag("div", scroll(element, "The papers' findings"), class_="card")
    return section("findings", "The papers' findings", tag("p", lead, class_="lead"), card)
