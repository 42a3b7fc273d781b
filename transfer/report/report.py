"""One self-contained page per experiment, and its table as files beside it."""

from __future__ import annotations

import html
from importlib.resources import files
from pathlib import Path
from string import Template

from pretrain.runtime import checkpoint
from transfer.report import details, latex, summary, tables
from transfer.report.collect import ExperimentReport, collect
from transfer.report.markup import Markup, join
from transfer.trials.reproduce import Plan

REPORT = "report.html"

_TITLES = {
    "results": "Results",
    "versus": "Against the baseline",
    "trials": "Every trial",
    "learning": "Learning curves",
    "classes": "Classes",
    "images": "Test images",
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
    """The page as HTML."""
    sections: dict[str, Markup | None] = {
        "results": summary.table(report),
        "versus": summary.versus(report),
        "trials": summary.trials(report),
        "learning": summary.learning(report),
        "classes": details.classes(report),
        "images": details.images(plan, report),
        "conversion": details.conversions(report),
        "provenance": details.provenance(report),
        "rerun": details.rerun(report),
    }
    contents = {name: _TITLES[name] for name, section in sections.items() if section is not None}
    here = files("transfer.report")
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(report.title),
        css=(here / "report.css").read_text(encoding="utf-8").strip(),
        header=summary.header(report, contents),
        main=join([summary.problems(report), *sections.values()], between="\n"),
    )


def _save(text: str, path: Path) -> None:
    with checkpoint.atomic_write(path) as f:
        f.write(text.encode("utf-8"))
