"""Builds the report's section *Provenance*, which says where its numbers come from.

It lists configurations, weights, numbers of images, hours, software, hardware, and the notes that runs made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pretrain.runtime.result import RunResult
from transfer.report.collected import ColumnReport, ExperimentReport, RowReport
from transfer.report.markup import Markup, fact, join, named, scroll, section, tag
from transfer.report.sections import hours, image_counts
from transfer.trials.plan import Plan


def provenance(plan: Plan, report: ExperimentReport) -> Markup | None:
    """Builds the section: a table of the rows' runs, images, hours, software and hardware, and the runs' notes.

    Returns:
        The section, or None if nothing has finished yet.
    """
    results = [r for _, _, row in report.cells() for r in row.results] + [
        p.result for p in report.pretrainings if p.result
    ]
    if not results:
        return None
    heads = ("Row", "Seeds", "Config", "Initial weights", "Iterations", "Seconds per trial")
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    body = [_origin(column, i, row) for column, i, row in report.cells() if row.results]
    rows = tag("div", scroll(tag("table", head, tag("tbody", *body)), "Runs"), class_="card")
    return section(
        "provenance",
        "Provenance",
        tag(
            "div",
            rows,
            image_counts.table(plan, report),
            hours.table(plan, report),
            _environment(results),
            _notes(report),
            class_="stack",
        ),
    )


def _origin(column: ColumnReport, i: int, row: RowReport) -> Markup:
    """Builds one table row: seeds, digest of the config, initial weights, iterations and seconds of a row's trials."""
    seconds = [r.seconds for r in row.results]
    spread = f"{min(seconds):,.0f}" if len(seconds) == 1 else f"{min(seconds):,.0f} to {max(seconds):,.0f}"
    shas = [r.weights_sha256[:12] if r.weights_sha256 else "" for r in row.results]
    return tag(
        "tr",
        tag("th", named(i, column.prefix + row.name), scope="row"),
        tag("td", _seeds([r.seed for r in row.results]), class_="whole"),
        tag("td", tag("code", _several(r.config_digest for r in row.results))),
        tag("td", row.weights, tag("small", "sha256 ", tag("code", _several(shas))) if any(shas) else None),
        tag("td", _several(f"{r.iterations:,}" for r in row.results)),
        tag("td", spread, class_="whole"),
    )


def _environment(results: Sequence[RunResult]) -> Markup:
    """Lists facts about software and hardware with their values, and the number of runs per value where runs differ."""
    facts: dict[str, Counter[str]] = {"engine": Counter(r.engine for r in results)}
    for r in results:
        flat = {**r.provenance, **r.provenance.get("packages", {})}
        for name in ("packages", "peak_memory_gb"):  # the latter differs from run to run
            flat.pop(name, None)
        for key, value in flat.items():
            facts.setdefault(str(key), Counter())[fact(value)] += 1
    pairs = []
    for key, counted in facts.items():
        one = len(counted) == 1
        values = [value if one else f"{value} ({n} of {len(results)} runs)" for value, n in counted.most_common()]
        pairs += [tag("dt", key), tag("dd", "; ".join(values))]
    for name in ("process", "gpu"):
        held = [r.provenance["peak_memory_gb"][name] for r in results if name in r.provenance.get("peak_memory_gb", {})]
        if held:
            pairs += [tag("dt", f"peak memory, {name}"), tag("dd", f"{min(held):.2f} to {max(held):.2f} GB")]
    return tag("div", tag("h3", "Software and hardware"), tag("dl", *pairs), class_="card")


def _notes(report: ExperimentReport) -> Markup | None:
    """Lists each note once, under the names of the runs that made it."""
    cells = [(column.prefix + row.name, row.results) for column, _, row in report.cells()]
    trials: list[tuple[str, Sequence[RunResult]]] = [(name, results) for name, results in cells if results]
    runs = [*trials, *((f"pre-training '{p.name}'", [p.result]) for p in report.pretrainings if p.result)]
    notes: dict[str, list[Markup]] = {}
    for note in dict.fromkeys(note for _, results in runs for r in results for note in r.notes):
        who = []
        for name, results in runs:
            if n := sum(note in r.notes for r in results):
                who.append(name if n == len(results) else f"{name} ({n} of {len(results)} trials)")
        everywhere = bool(trials) and who[: len(trials)] == [name for name, _ in trials]
        notes.setdefault("every trial" if everywhere else ", ".join(who), []).append(tag("li", note))
    if not notes:
        return None
    groups = [join([tag("h4", who), tag("ul", *lines, class_="notes")]) for who, lines in notes.items()]
    return tag("div", tag("h3", "Notes of the runs"), *groups, class_="card")


def _seeds(seeds: Sequence[int]) -> str:
    """Writes seeds as "0 to 4" if they are three or more in a row, else as "0, 2, 5"."""
    run = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))


def _several(values: Any) -> str:
    """Joins the distinct values by commas; an empty value is written as "none"."""
    return ", ".join(dict.fromkeys(v or "none" for v in values))
