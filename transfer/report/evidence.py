"""Writes one page in Markdown for several experiments: which of the papers' findings show, and by which numbers.

The page is a record that is kept with the code: tables, pictures, commands, digests and hours, but no weights.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.config import ConfigError
from pretrain.runtime.wording import visible
from transfer.report import judgement
from transfer.report.collect import collect
from transfer.report.collected import ColumnReport, ExperimentReport
from transfer.report.figures.row_plots import dots
from transfer.report.judgement import Judged
from transfer.report.markup import Markup
from transfer.report.sections import hours
from transfer.report.sections.summary import row_dots
from transfer.report.table_files import escaped, markdown
from transfer.trials.plan import Plan

LOG = logging.getLogger(__name__)

PICTURES = "pictures"  # folder beside the page

_LEAD = """# Evidence: which of the papers' findings show at small scale

Made by `make evidence`, each experiment by its own command below; the page is written anew as each of them ends.
A finding *shows* where the 95% intervals of both means are apart in the direction that the paper says, is *reversed*
where they are apart in the other, and *does not show* where they overlap. Every experiment file stated its findings
before it ran. The numbers are of small networks on generated images: they are not comparable with the papers', and
only their order is looked at.
"""


def write(plans: Sequence[Plan], page: Path) -> list[Judged]:
    """Writes the page, and a picture per experiment and metric that a finding is about beside it.

    Args:
        plans: plans of experiments; those of which nothing has run yet are left out. If none has run, nothing is
            written, since the page may be a record made elsewhere.
        page: a Markdown file; its pictures go to `pictures/` in the same folder.

    Returns:
        All findings, in the page's order.

    Raises:
        ConfigError: the config of a row cannot be read.
        OSError: the page cannot be written.
    """
    reports = [(plan, collect(plan)) for plan in plans]
    found = [(plan, report) for plan, report in reports if any(row.results for _, _, row in report.cells())]
    if left_out := [str(plan.experiment.path) for plan, report in reports if all(report is not r for _, r in found)]:
        LOG.warning("of %s nothing has run here: not on the page", ", ".join(left_out))
    if not found:
        return []
    judged = [(plan, j) for plan, report in found for j in judgement.judged(report)]
    parts = [_LEAD, _summary(judged), *(_experiment(plan, report, page.parent) for plan, report in found)]
    _save("\n".join(parts), page)
    return [j for _, j in judged]


def check_page(page: Path) -> None:
    """Makes the page's folders, and refuses beforehand a page that could not be written after hours of work.

    Raises:
        ConfigError: the page is a folder.
        OSError: the page's folder cannot be written.
    """
    if page.is_dir():
        raise ConfigError(f"the page '{page}' is a folder; give a file, e.g. {page / 'evidence.md'}")
    for folder in (page.parent, page.parent / PICTURES):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def _summary(judged: Sequence[tuple[Plan, Judged]]) -> str:
    shown = sum(j.verdict == "shows" for _, j in judged)
    lines = [
        f"{shown} of {len(judged)} findings show.",
        "",
        "| finding | the paper | here | numbers |",
        "|---|---|---|---|",
    ]
    for plan, j in judged:
        claim = f"[{escaped(j.finding.claim)}](#{_anchor(plan.experiment.title)})"
        why = f"; {j.finding.unless}" if j.verdict in ("does not show", "reversed") and j.finding.unless else ""
        lines.append(f"| {claim} | {escaped(j.finding.source)} | **{j.verdict}** | {escaped(j.words + why)} |")
    return "\n".join([*lines, ""])


def _experiment(plan: Plan, report: ExperimentReport, folder: Path) -> str:
    e = plan.experiment
    spent = hours.spent(plan, report)
    # the title is the heading here, and the findings stand at the top of the page
    table = markdown(replace(report, findings=())).partition("\n\n")[2]
    command = f"python tools/reproduce.py {_relative(e.path, plan)}"
    remark = f" {escaped(e.remark)}" if e.remark else ""
    lines = [f"## {escaped(e.title)}", "", f"{_code(command)}; {_spent(spent)}.{remark}", "", table]
    lines += [f"![{escaped(alt)}]({path})" for path, alt in _pictures(plan, report, folder)]
    lines += ["", _origin(report), ""]
    return "\n".join(lines)


def _relative(path: Path, plan: Plan) -> str:
    try:
        return path.resolve().relative_to(plan.tools.resolve().parent).as_posix()
    except ValueError:
        return path.name


def _spent(lines: Iterable[hours.Spent]) -> str:
    lines = list(lines)
    runs, wanted = sum(line.runs for line in lines), sum(line.wanted for line in lines)
    return f"{runs} of {wanted} runs, {sum(line.hours for line in lines):.1f} hours of them"


def _origin(report: ExperimentReport) -> str:
    """Returns machine, versions and digests, each value once."""
    results = [r for _, _, row in report.cells() for r in row.results]
    results += [p.result for p in report.pretrainings if p.result is not None]
    packages = [r.provenance.get("packages", {}) for r in results]
    facts: dict[str, list[Any]] = {
        "on": [f"{r.provenance.get('device', '?')} (threads: {r.provenance.get('threads', '?')})" for r in results],
        "torch": [p.get("torch") for p in packages],
        "commit": [str(r.provenance.get("commit") or "unknown")[:12] for r in results],
    }
    words = [
        f"{name} {', '.join(dict.fromkeys(escaped(str(v)) for v in values if v))}" for name, values in facts.items()
    ]
    return f"Made {'; '.join(words)}. Config digests: {', '.join(map(_digests, report.columns))}."


def _digests(column: ColumnReport) -> str:
    """Returns the digests of a column's configs with the rows that have them, or "all rows"."""
    rows: dict[str, list[str]] = {}
    for row in column.run:
        for digest in dict.fromkeys(r.config_digest for r in row.results):
            rows.setdefault(digest, []).append(row.name)
    names = {digest: "all rows" if len(rows) == 1 else ", ".join(who) for digest, who in rows.items()}
    return ", ".join(f"{escaped(column.prefix + who)} {_code(digest)}" for digest, who in names.items())


def _pictures(plan: Plan, report: ExperimentReport, folder: Path) -> list[tuple[str, str]]:
    """Writes a picture per column and metric of a finding; returns (path from the page, alternative text) of each."""
    wanted = {(c.name, f.metric.key) for f in report.findings for c in (f.column, f.than_column)}
    saved = []
    for column in report.columns:
        for metric in column.metrics:
            rows = row_dots(column, metric)
            if (column.name, metric.key) in wanted and any(row.values for row in rows):
                words = [plan.experiment.path.stem, column.slug, metric.key.replace("/", "_")]
                name, alt = f"evidence_{'_'.join(filter(None, words))}.svg", f"{column.prefix}{metric.label} per trial"
                _save(standalone(dots(rows, alt, "dots")), folder / PICTURES / name)
                saved.append((f"{PICTURES}/{name}", alt))
    return saved


def standalone(svg: Markup) -> str:
    """Returns a report's figure as a file of its own, with the page's light colours and font on a white ground."""
    css = (files("transfer.report") / "report.css").read_text(encoding="utf-8")
    light = css[: css.index("@media")]
    colours = dict(re.findall(r"--([\w-]+):\s*([^;]+);", light))
    text = re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]], svg)
    font = colours["sans"].replace('"', "'")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" font-family="{font}" color="{colours["text"]}" '
    ground = f'<rect width="100%" height="100%" fill="{colours["card"]}"/>'
    text = text.replace("<svg ", head, 1)
    return text.replace(">", f">{ground}", 1) + "\n"


def _code(words: str) -> str:
    """Returns words as code in Markdown, which nothing in them can end."""
    return f"`{' '.join(visible(words).replace('`', chr(39)).split())}`"


def _anchor(title: str) -> str:
    """Returns the heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _save(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f:
        f.write(text.encode("utf-8"))
