"""The page's lower half: classes, images, conversions, and where the numbers come from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pretrain.runtime.result import RunResult
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.evaluators import predictions_file
from transfer.evaluation.predictions import EvaluationError, load_coco_json
from transfer.report.collect import ExperimentReport, RowReport, metric_key
from transfer.report.gallery import Found, gallery
from transfer.report.markup import Markup, css_colour, join, named, section, tag
from transfer.trials.reproduce import Plan
from transfer.trials.run import trial_folder

logger = logging.getLogger(__name__)


def classes(report: ExperimentReport) -> Markup | None:
    """AP per class, averaged over the trials of every complete row."""
    tables = []
    datasets = dict.fromkeys(name for row in report.rows for r in row.results for name in _per_class(r.extra))
    for dataset in datasets:
        found = {
            i: _per_class(row.results[0].extra).get(dataset, {}) for i, row in enumerate(report.rows) if row.results
        }
        available = {metric for per_class in found.values() for values in per_class.values() for metric in values}
        wanted = [metric_key(m).rpartition("/")[2] for m in report.metrics]
        metric = next((m for m in wanted if m in available), min(available, default=None))
        if metric is None:
            continue
        columns = {i: _mean_per_class(row, dataset, metric) for i, row in enumerate(report.rows)}
        names = list(dict.fromkeys(name for column in columns.values() if column for name in column))
        if names:
            tables.append(_class_table(report, dataset, metric, names, columns))
    return section("classes", "Classes", *tables) if tables else None


def _per_class(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: d["per_class"] for name, d in extra.items() if isinstance(d, Mapping) and d.get("per_class")}


def _mean_per_class(row: RowReport, dataset: str, metric: str) -> dict[str, float | None] | None:
    """Class -> mean over trials, None where a trial has no such number; None for a row that is not complete."""
    if row.aggregate is None or len(row.results) < len(row.seeds):
        return None
    tables = [_per_class(r.extra).get(dataset, {}) for r in row.results]
    values = {name: [t.get(name, {}).get(metric) for t in tables] for name in tables[0]}
    return {name: None if None in found else fmean(found) for name, found in values.items()}


def _class_table(
    report: ExperimentReport, dataset: str, metric: str, names: Sequence[str], columns: Mapping[int, Any]
) -> Markup:
    heads = []
    for i, row in enumerate(report.rows):
        state = None if columns[i] is not None else tag("small", row.state)
        heads.append(tag("th", named(i, row.name), state, scope="col"))
    lines = []
    for name in names:
        cells = [_bar(i, (columns[i] or {}).get(name)) for i in columns]
        lines.append(tag("tr", tag("th", name.replace("_", " "), scope="row"), *cells))
    head = tag("thead", tag("tr", tag("th", "Class", scope="col"), *heads))
    lead = tag("p", f"{metric} per class on {dataset}, mean over trials; bars run from 0 to 100.", class_="lead")
    element = tag("table", head, tag("tbody", *lines), class_="classes", style=f"--rows: {len(columns)}")
    return join([lead, tag("div", tag("div", element, class_="scroll"), class_="card")])


def _bar(row: int, value: float | None) -> Markup:
    if value is None:
        return tag("td", "–")
    share = f"--share: {max(0.0, min(value, 100.0)):.1f}%; --colour: {css_colour(row)}"
    return tag("td", tag("div", tag("b", f"{value:.1f}"), tag("span", tag("i", style=share)), class_="bar"))


def images(plan: Plan, report: ExperimentReport, count: int = 4) -> Markup | None:
    """Test images with the detections of each row's first finished trial, side by side."""
    number = next((i for i, row in enumerate(report.rows) if row.results), None)
    if number is None or plan.experiment.probe is not None:
        return None
    job = plan.experiment.rows[number].job
    assert job is not None
    cfg = load_config(job.config, job.opts, plan.engine.defaults())
    try:
        for spec in catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS):
            ids = catalog.category_ids(spec)
            found = [f for i, row in enumerate(report.rows) if (f := _found(row, i, spec.name, ids)) is not None]
            if found:
                lead = (
                    f"Images of {spec.name}, evenly spaced in its order and chosen without looking at results. Dashed: "
                    "annotated. Solid: of each row's first trial, as many of its surest detections."
                )
                body = gallery(spec, found, count)
                return section("images", "Test images", tag("p", lead, class_="lead"), body)
    except (ValueError, OSError) as error:  # a data set that is not here must not keep the report from being written
        logger.warning("no test images in the report: %s", error)
        return section("images", "Test images", tag("p", f"Not shown: {error}", class_="lead"))
    return None


def _found(row: RowReport, colour: int, dataset: str, ids: Sequence[int]) -> Found | None:
    if not row.results:
        return None
    seed = row.results[0].seed
    path = trial_folder(row.folder, seed) / predictions_file(dataset)
    try:
        return Found(row.name, colour, seed, {d.image_id: d for d in load_coco_json(path, ids)})
    except EvaluationError as error:
        logger.warning("row '%s' is not among the test images: %s", row.name, error)
        return None


def conversions(report: ExperimentReport) -> Markup | None:
    """What the converter wrote beside each trunk, as it wrote it."""
    cards = []
    for name, facts in report.conversions.items():
        pairs = [
            pair
            for key, value in facts.items()
            for pair in (
                tag("dt", key.replace("_", " ")),
                tag("dd", tag("code", _fact(value)[: 12 if key.endswith("sha256") else None])),
            )
        ]
        cards.append(tag("div", tag("h3", name), tag("dl", *pairs), class_="card"))
    if not cards:
        return None
    lead = (
        "Trunks that were renamed for the detector. The converter writes one only if every tensor of the architecture "
        "arrived and the features equal those of the source."
    )
    return section("conversion", "Conversion", tag("p", lead, class_="lead"), tag("div", *cards, class_="charts wide"))


def provenance(report: ExperimentReport) -> Markup | None:
    """Per row configuration and weights, then software and hardware, then what the runs themselves noted."""
    results = [r for row in report.rows for r in row.results] + [p.result for p in report.pretrainings if p.result]
    if not results:
        return None
    heads = ("Row", "Seeds", "Config", "Initial weights", "Iterations", "Seconds per trial")
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    body = [_origin(i, row) for i, row in enumerate(report.rows) if row.results]
    rows = tag("div", tag("div", tag("table", head, tag("tbody", *body)), class_="scroll"), class_="card")
    return section("provenance", "Provenance", tag("div", rows, _environment(results), _notes(report), class_="stack"))


def _origin(i: int, row: RowReport) -> Markup:
    seconds = [r.seconds for r in row.results]
    spread = f"{min(seconds):,.0f}" if len(seconds) == 1 else f"{min(seconds):,.0f} to {max(seconds):,.0f}"
    shas = [r.weights_sha256[:12] if r.weights_sha256 else "" for r in row.results]
    return tag(
        "tr",
        tag("th", named(i, row.name), scope="row"),
        tag("td", _seeds([r.seed for r in row.results]), class_="whole"),
        tag("td", tag("code", _several(r.config_digest for r in row.results))),
        tag("td", row.weights, tag("small", "sha256 ", tag("code", _several(shas))) if any(shas) else None),
        tag("td", _several(f"{r.iterations:,}" for r in row.results)),
        tag("td", spread, class_="whole"),
    )


def _environment(results: Sequence[RunResult]) -> Markup:
    """Each fact with its value, or all its values with how many runs had each."""
    facts: dict[str, Counter[str]] = {"engine": Counter(r.engine for r in results)}
    for r in results:
        flat = {**r.provenance, **r.provenance.get("packages", {})}
        flat.pop("packages", None)
        for key, value in flat.items():
            facts.setdefault(str(key), Counter())[_fact(value)] += 1
    pairs = []
    for key, counted in facts.items():
        one = len(counted) == 1
        values = [value if one else f"{value} ({n} of {len(results)} runs)" for value, n in counted.most_common()]
        pairs += [tag("dt", key), tag("dd", "; ".join(values))]
    return tag("div", tag("h3", "Software and hardware"), tag("dl", *pairs), class_="card")


def _notes(report: ExperimentReport) -> Markup | None:
    """Each note once, with the runs that made it unless all trials did."""
    trials: list[tuple[str, Sequence[RunResult]]] = [(row.name, row.results) for row in report.rows if row.results]
    runs = [*trials, *((f"pre-training '{p.name}'", [p.result]) for p in report.pretrainings if p.result)]
    lines = []
    for note in dict.fromkeys(note for _, results in runs for r in results for note in r.notes):
        who = []
        for name, results in runs:
            if n := sum(note in r.notes for r in results):
                who.append(name if n == len(results) else f"{name} ({n} of {len(results)} trials)")
        everywhere = bool(trials) and who[: len(trials)] == [name for name, _ in trials]
        lines.append(tag("li", note, tag("small", "every trial" if everywhere else ", ".join(who))))
    return (
        tag("div", tag("h3", "Notes of the runs"), tag("ul", *lines, class_="notes"), class_="card") if lines else None
    )


def rerun(report: ExperimentReport) -> Markup:
    lead = "From the root of a checkout. What is finished is skipped, what was interrupted continues."
    command = tag("div", tag("pre", tag("code", report.command)), class_="card")
    return section("rerun", "Run it again", tag("p", lead, class_="lead"), command)


def _seeds(seeds: Sequence[int]) -> str:
    run = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))


def _several(values: Any) -> str:
    return ", ".join(dict.fromkeys(v or "none" for v in values))


def _fact(value: Any) -> str:
    """A JSON value as a reader writes it; file names without their folders."""
    if value is None:
        return "not stated"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_fact, value))
    return Path(value).name if isinstance(value, str) and value.startswith("/") else str(value)
