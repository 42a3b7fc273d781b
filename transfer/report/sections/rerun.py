"""Shows how to make the experiment, one of its rows, or one cell of its table again."""

from __future__ import annotations

import functools
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transfer.report.collected import ExperimentReport
from transfer.report.markup import Markup, named, section, tag
from transfer.trials.plan import Plan
from transfer.trials.rows import Column, Row
from transfer.trials.stages import Stage

logger = logging.getLogger(__name__)


def rerun(plan: Plan, report: ExperimentReport) -> Markup:
    """Shows the command of the whole, and per row the call that runs it alone and the commands of its stages."""
    lead = "From the root of a checkout. What is finished is skipped, what was interrupted continues."
    whole = tag("div", _code(report.command), class_="card")
    plan = replace(plan, listing=functools.cache(plan.listing))
    run = dict.fromkeys(i for _, i, _ in report.cells())
    rows = [_row(plan, report, i, plan.experiment.rows[i]) for i in sorted(run)]
    cells = tag("div", tag("h3", "One row"), *rows, class_="card")
    return section("rerun", "Run it again", tag("p", lead, class_="lead"), tag("div", whole, cells, class_="stack"))


def commands(plan: Plan, row: Row) -> list[tuple[str, str]]:
    """Returns (name, command) of the stages behind a row, with the paths of a checkout.

    Fine-tunings of different seeds differ only in `--only-seed`, so only the first is listed; all probes are listed.

    Raises:
        ValueError, OSError: the data set or a config is not here.
    """
    e = plan.experiment
    columns = tuple(c if c.probe is not None else replace(c, trials=1) for c in e.columns)
    alone = replace(plan, rows=(row.slug,), only=(), experiment=replace(e, columns=columns))
    return [(stage.name, _words(stage, plan.tools.parent)) for stage in alone.stages()]


def _words(stage: Stage, root: Path) -> str:
    return shlex.join(["python" if word == sys.executable else word.removeprefix(f"{root}/") for word in stage.command])


def _row(plan: Plan, report: ExperimentReport, i: int, row: Row) -> Markup:
    parts = [_code(f"{report.command} --rows {shlex.quote(row.slug)}")]
    try:
        for name, command in commands(plan, row):
            parts += [tag("h4", name), _code(command)]
    except (ValueError, OSError) as error:
        logger.warning("the commands of row '%s' are not in the report: %s", row.name, error)
        parts.append(tag("p", f"Its stages cannot be listed here: {error}", class_="small"))
    parts += [tag("p", others, class_="small") for c in plan.experiment.columns if (others := _others(c, row))]
    return tag("details", tag("summary", named(i, row.name)), *parts)


def _others(column: Column, row: Row) -> str:
    seeds: Sequence[int] = column.seeds[1:]
    if row.job(column) is None or not seeds:
        return ""
    which = f"--only-seed {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
    return f"{column.prefix}The other trial{'s' * (len(seeds) != 1)}: the same command with {which}."


def _code(words: str) -> Markup:
    return tag("pre", tag("code", words))
