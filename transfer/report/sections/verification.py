"""Makes the page's section of changed files: compares each stage's recorded inputs and outputs with those here."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from transfer.report.markup import Markup, scroll, section, tag
from transfer.trials.plan import Plan
from transfer.trials.stages import Checked, StageError

logger = logging.getLogger(__name__)

DIGITS = 16  # of a digest on the page
_LEAD = (
    "Each stage keeps the digests of all that it read and left: of files their SHA-256, of data sets that of "
    "annotations, names and sizes, of configs that of their keys. Here they are held against what lies here now."
)


def verification(plan: Plan) -> Markup | None:
    """Shows which inputs and outputs differ from what the stages recorded; None if no stage has recorded anything."""
    found: list[tuple[str, Checked]] = []
    problems = []
    try:
        for stage in replace(plan, only=(), listing=functools.cache(plan.listing)).stages():
            try:
                found += [(stage.name, each) for each in stage.checked()]
            except StageError as error:
                problems.append(str(error))
    except (ValueError, OSError) as error:  # a config or a data set that is not here
        logger.warning("not everything is verified in the report: %s", error)
        problems.append(str(error))
    if not found and not problems:
        return None
    counts = Counter(each.state for _, each in found)
    said = ", ".join(f"{counts[state]} {state}" for state in ("unchanged", "changed", "gone") if counts[state])
    other = [(name, each) for name, each in found if each.state != "unchanged"]
    parts = [
        tag("p", f"{len(found)} recorded: {said or 'none'}."),
        *(tag("p", f"Not verified: {problem}", class_="outside") for problem in problems),
        _table(other, "Changed since") if other else None,
        tag("details", tag("summary", "All of them"), _table(found, "Recorded digests")) if found else None,
    ]
    lead = tag("p", _LEAD, class_="lead")
    return section("verification", "Verification", lead, tag("div", *parts, class_="card"))


def _table(found: Sequence[tuple[str, Checked]], label: str) -> Markup:
    head = tag("tr", *(tag("th", text, scope="col") for text in ("Stage", "What", "Recorded", "Now", "")))
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", each.what),
            tag("td", tag("code", each.recorded[:DIGITS])),
            tag("td", tag("code", "-" if each.now is None else each.now[:DIGITS])),
            tag("td", each.state, class_=None if each.state == "unchanged" else "outside"),
        )
        for name, each in found
    ]
    return scroll(tag("table", tag("thead", head), tag("tbody", *body)), label)
