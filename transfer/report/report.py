"""Writes one self-contained page per experiment, and its table as files beside it."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path

from pretrain.runtime import checkpoint
from transfer.report import engines, evaluated, latex, neighbours, table_files
from transfer.report.collect import collect
from transfer.report.collected import ColumnReport, ExperimentReport
from transfer.report.markup import Markup, join, prefixed, tag
from transfer.report.page import page as framed
from transfer.report.sections import (
    alike,
    conversion,
    detections,
    findings,
    learning,
    maps,
    per_class,
    provenance,
    rerun,
    summary,
    verification,
)
from transfer.trials.plan import Plan

logger = logging.getLogger(__name__)

REPORT = "report.html"

_TITLES = {
    "results": "Results",
    "findings": "The papers' findings",
    "versus": "Against the baseline",
    "trials": "Every trial",
    "learning": "Learning curves",
    "classes": "Classes",
    "gaps": "Class by class",
    "precision": "Precision and recall",
    "images": "Test images",
    "maps": "Maps of classes",
    "neighbours": "Nearest neighbours",
    "conversion": "Conversion",
    "provenance": "Provenance",
    "verification": "Verification",
    "rerun": "Run it again",
}

Sections = dict[str, Markup | None]


def write_report(plan: Plan, report: ExperimentReport | None = None) -> Path:
    """Writes the page and the table as files to the experiment's folder, each atomically.

    For fine-tunings both names contain the engine: `report-torchvision.html`, `table-torchvision.{md,csv,json,tex}`.
    The page to open is `report.html`: the same page, or, if there are trials of both engines, their comparison. Pages
    open from disk, with no network and no script. Unfinished rows are shown as such.

    Args:
        report: the result of `collect` for the plan, if it has already been read.

    Returns:
        The path of `report.html`.

    Raises:
        ConfigError: the config of a row cannot be read.
    """
    report, out = report or collect(plan), plan.experiment.output
    suffix = f"-{plan.engine.name}" if plan.detects else ""
    checkpoint.save_json(table_files.to_json(report), out / f"table{suffix}.json")
    _save(table_files.markdown(report), out / f"table{suffix}.md")
    _save(table_files.to_csv(report), out / f"table{suffix}.csv")
    _save(latex.table(report), out / f"table{suffix}.tex")
    text = page(plan, report)
    if suffix:
        _save(text, out / engines.report_file(plan.engine.name))
    other = engines.other(plan)
    _save(text if other is None else _two_engines(plan, report, other), out / REPORT)
    return out / REPORT


def _two_engines(plan: Plan, report: ExperimentReport, other: str) -> str:
    return framed(f"{report.title}: two engines", *engines.page(plan, report, other))


def page(plan: Plan, report: ExperimentReport) -> str:
    """Returns the page as HTML: the table, the sections of each column, then what the columns share.

    Nearest neighbours are computed unless an earlier page did; nothing else here takes more than a few seconds.
    """
    plan = replace(plan, listing=functools.cache(plan.listing))
    columns = [(column, _column(plan, column)) for column in report.columns]
    shared: Sections = {
        "results": summary.table(report),
        "findings": findings.findings(report),
        "learning": learning.learning(report),
        "neighbours": _neighbours(plan, report),
        "conversion": conversion.conversions(plan, report),
        "provenance": provenance.provenance(plan, report),
        "verification": verification.verification(plan),
        "rerun": rerun.rerun(plan, report),
    }
    if len(columns) == 1:
        found = shared | columns[0][1]
        sections = {name: found[name] for name in _TITLES}
        contents = {name: _TITLES[name] for name, section in sections.items() if section is not None}
    else:
        named = {f"column-{column.slug}": _named(column, own) for column, own in columns}
        sections = {name: shared.pop(name) for name in ("results", "findings")} | named | shared
        titles = _TITLES | {f"column-{column.slug}": column.name for column in report.columns}
        contents = {name: titles[name] for name, section in sections.items() if section is not None}
    main = join([summary.problems(report), *sections.values()], between="\n")
    return framed(report.title, summary.header(report, contents), main)


def _column(plan: Plan, column: ColumnReport) -> Sections:
    """Returns the sections about one column's trials."""
    try:
        sets = evaluated.read(plan, column)
        pictures = detections.images(column, sets)
    except (ValueError, OSError) as error:  # a data set that is not here must not keep the report from being written
        sets, pictures = [], detections.not_shown(error)
    return {
        "versus": summary.versus(column),
        "trials": summary.trials(column),
        "classes": per_class.classes(column),
        "gaps": per_class.against_baseline(column),
        "precision": detections.precision(column, sets),
        "images": pictures,
        "maps": maps.maps(plan, column),
    }


def _named(column: ColumnReport, sections: Sections) -> Markup | None:
    """Returns the column's sections under its name, with ids of their own."""
    found = [prefixed(section, f"{column.slug}-") for section in sections.values() if section is not None]
    if not found:
        return None
    return tag("div", tag("h2", column.name, class_="column"), *found, id=f"column-{column.slug}", class_="column")


def _neighbours(plan: Plan, report: ExperimentReport) -> Markup | None:
    try:
        pool = neighbours.pool(plan)
    except (ValueError, OSError) as error:
        logger.warning("no images for nearest neighbours: %s", error)
        pool = None
    return alike.alike(report, pool, *neighbours.trunks(plan, pool))


def _save(text: str, path: Path) -> None:
    with checkpoint.atomic_write(path) as f:
        f.write(text.encode("utf-8"))
