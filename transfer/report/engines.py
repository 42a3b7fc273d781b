"""Compares two engines on one experiment: each cell of both, the difference and its test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pretrain.runtime.result import FILE_NAME, RunResult
from transfer.engines.select import CHOICES
from transfer.report.collected import ExperimentReport
from transfer.report.compare import table
from transfer.report.markup import Markup, join, section, tag
from transfer.report.pairs import Both
from transfer.trials.aggregate import AggregateError, Statistic, aggregate
from transfer.trials.plan import Plan
from transfer.trials.run import trial_folder


def report_file(engine: str) -> str:
    return f"report-{engine}.html"


def other(plan: Plan) -> str | None:
    """Returns the engine beside the plan's that has a finished trial of this experiment; None if there is none."""
    for name in (name for name in CHOICES if name not in ("auto", plan.engine.name)):
        folders = [plan.row_folder(column, row, name) for column, row in plan.experiment.runs() if row.job(column)]
        if any(next(folder.glob(f"seed_*/{FILE_NAME}"), None) for folder in folders):
            return name
    return None


def both(plan: Plan, report: ExperimentReport, engine: str) -> Iterator[Both]:
    """Yields the cells whose trials are complete on both engines."""
    for column, found in zip(plan.experiment.columns, report.columns, strict=True):
        for i, row in enumerate(plan.experiment.rows):
            if row.job(column) is None:
                continue
            theirs = _statistics(plan.row_folder(column, row, engine), found.seeds)
            for metric in found.metrics:
                ours = found.rows[i].statistic(metric.key)
                if ours is not None and metric.key in theirs:
                    yield Both(found.prefix + row.name, i, metric, ours, theirs[metric.key])


def _statistics(folder: Path, seeds: tuple[int, ...]) -> Mapping[str, Statistic]:
    """Returns metric key -> statistic; empty if a trial is missing or the trials do not belong together."""
    try:
        return aggregate([RunResult.load(trial_folder(folder, seed)) for seed in seeds]).metrics
    except (AggregateError, FileNotFoundError, ValueError):
        return {}


def page(plan: Plan, report: ExperimentReport, engine: str) -> tuple[Markup, Markup]:
    """Returns header and content of the page that compares the plan's engine with `engine`."""
    names = plan.engine.name, engine
    links = []
    for name in names:
        there = name == plan.engine.name or (plan.experiment.output / report_file(name)).is_file()
        link = tag("a", f"Report of {name}", href=report_file(name))
        links.append(tag("li", link if there else f"Report of {name}: make it with make_report.py --engine {name}"))
    header = join(
        [
            tag("p", f"Two engines · {names[0]} and {names[1]}", class_="kicker"),
            tag("h1", report.title),
            tag("p", "Both engines have trials of this experiment; a table never mixes them.", class_="lede"),
            tag("nav", tag("ul", *links), aria_label="Reports"),
        ]
    )
    found = list(both(plan, report, engine))
    if not found:
        return header, tag("p", "No row is complete on both engines yet.", class_="lede")
    lead = (
        f"Mean ± sample std over trials. Difference: {names[0]} minus {names[1]}. Different: Welch's t-test at 5%, "
        "each comparison by itself; one trial has no spread to test."
    )
    card = tag("div", table(found, names), class_="card")
    return header, section("engines", "Cell by cell", tag("p", lead, class_="lead"), card)
