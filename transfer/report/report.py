"""One self-contained page per experiment, and its table as files beside it."""

from __future__ import annotations

import html
import logging
from importlib.resources import files
from pathlib import Path
from string import Template

from pretrain.runtime import checkpoint
from transfer.report import (
    alike,
    conversion,
    detections,
    evaluated,
    latex,
    neighbours,
    per_class,
    provenance,
    rerun,
    summary,
    tables,
)
from transfer.report.collect import ExperimentReport, collect
from transfer.report.markup import Markup, join
from transfer.trials.reproduce import Plan

logger = logging.getLogger(__name__)

REPORT = "report.html"

_TITLES = {
    "results": "Results",
    "versus": "Against the baseline",
    "trials": "Every trial",
    "learning": "Learning curves",
    "classes": "Classes",
    "gaps": "Class by class",
    "precision": "Precision and recall",
    "images": "Test images",
    "neighbours": "Nearest neighbours",
    "conversion": "Conversion",
    "provenance": "Provenance",
    "rerun": "Run it again",
}


def write_report(plan: Plan) -> Path:
    """Writes `report.html` and `table.{md,csv,json,tex}` to the experiment's folder, each atomically.

    The page opens from disk: no network, no script. Rows that are unfinished are shown as such.

    Returns:
        the page's path.

    Raises:
        ConfigError: the config of a row cannot be read.
    """
    report, out = collect(plan), plan.experiment.output
    checkpoint.save_json(tables.to_json(report), out / "table.json")
    _save(tables.markdown(report), out / "table.md")
    _save(tables.to_csv(report), out / "table.csv")
    _save(latex.table(report), out / "table.tex")
    _save(page(plan, report), out / REPORT)
    return out / REPORT


def page(plan: Plan, report: ExperimentReport) -> str:
    """The page as HTML.

    Nearest neighbours are computed if no page before has: the only thing here that takes more than a few seconds.
    """
    try:
        sets = evaluated.read(plan, report)
        pictures = detections.images(report, sets)
    except (ValueError, OSError) as error:  # a data set that is not here must not keep the report from being written
        sets, pictures = [], detections.not_shown(error)
    sections: dict[str, Markup | None] = {
        "results": summary.table(report),
        "versus": summary.versus(report),
        "trials": summary.trials(report),
        "learning": summary.learning(report),
        "classes": per_class.classes(report),
        "gaps": per_class.against_baseline(report),
        "precision": detections.precision(report, sets),
        "images": pictures,
        "neighbours": _neighbours(plan, report),
        "conversion": conversion.conversions(plan, report),
        "provenance": provenance.provenance(plan, report),
        "rerun": rerun.rerun(plan, report),
    }
    contents = {name: _TITLES[name] for name, section in sections.items() if section is not None}
    here = files("transfer.report")
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(report.title),
        css=(here / "report.css").read_text(encoding="utf-8").strip(),
        header=summary.header(report, contents),
        main=join([summary.problems(report), *sections.values()], between="\n"),
    )


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
