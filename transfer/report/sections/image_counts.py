"""Counts the images that the experiment's pre-trainings, trainings and tests read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pretrain.runtime.errors import ExpectedError
from transfer.data import catalog
from transfer.data.dataset import annotated
from transfer.report.collected import ColumnReport, ExperimentReport, RowReport
from transfer.report.markup import Markup, scroll, tag
from transfer.trials.plan import Plan

logger = logging.getLogger(__name__)

_SUBSET = "RandomSubsetTrainingSampler"


@dataclass(frozen=True)
class Read:
    """Describes what runs read.

    Attributes:
        name: `pre-training 'moco'`, or for fine-tunings the data set.
        use: what the images are used for.
        images: number of images; None where that is not known.
    """

    name: str
    use: str
    images: int | None


def counts(plan: Plan, report: ExperimentReport) -> dict[Read, list[str]]:
    """Returns what finished runs read -> the rows that read it, by column; first pre-trainings, which have no rows."""
    found: dict[Read, list[str]] = {}
    for p in report.pretrainings:
        if p.result is not None:
            found[Read(f"pre-training '{p.name}'", "pre-training", _number(p.result.extra.get("images")))] = []
    known: dict[str, int | None] = {}
    for column, _, row in report.cells():
        for read in _reads(plan, column, row, known) if row.results else ():
            found.setdefault(read, []).append(row.name)
    return found


def _reads(plan: Plan, column: ColumnReport, row: RowReport, known: dict[str, int | None]) -> Iterator[Read]:
    if row.job is None:
        images = row.results[0].extra.get("images")  # of a probe
        if isinstance(images, Mapping):
            for part, use in (("train", "training"), ("val", "testing")):
                yield Read(f"{column.prefix}{column.runner}", use, _number(images.get(part)))
        return
    cfg = plan.config(row.job.config, row.job.opts)
    loader = cfg.DATALOADER
    share = f", {loader.RANDOM_SUBSET_RATIO:.3g} of it in each trial" if loader.SAMPLER_TRAIN == _SUBSET else ""
    for names, use in ((cfg.DATASETS.TRAIN, f"training{share}"), (cfg.DATASETS.TEST, "testing")):
        for name in names:
            if name not in known:
                known[name] = _listed(name, tuple(cfg.DATASETS.SPECS))
            yield Read(name, column.prefix + use, known[name])


def _listed(name: str, specs: tuple[str, ...]) -> int | None:
    """Returns the number of images that a data set lists; None, with a line in the log, if the set is not here."""
    try:
        (spec,) = catalog.resolve([name], specs)
        return len(annotated(spec)[1])
    except (ExpectedError, OSError) as error:
        logger.warning("the report does not say how many images data set '%s' has: %s", name, error)
        return None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def table(plan: Plan, report: ExperimentReport) -> Markup | None:
    """Makes the page's card; None where nothing is known."""
    found = counts(plan, report)
    if all(read.images is None for read in found):
        return None
    head = [tag("th", word, scope="col", class_="number" if word == "Images" else None)
            for word in ("Data", "For", "Images", "Rows")]  # fmt: skip
    everyone = {row.name for _, _, row in report.cells() if row.results}
    body = []
    for read, rows in found.items():
        who = "all" if set(rows) == everyone and len(rows) > 1 else ", ".join(dict.fromkeys(rows))
        number = "–" if read.images is None else f"{read.images:,}"
        cells = (tag("td", read.use), tag("td", number, class_="number"), tag("td", who))
        body.append(tag("tr", tag("th", read.name, scope="row"), *cells))
    element = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="tight")
    says = (
        "As many as a set lists; detectors are not trained on those of them that have no object, unless "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS is off. A dash: the data are not here, or the result does not say."
    )
    return tag(
        "div", tag("h3", "Images"), scroll(element, "Images"), tag("p", says, class_="small after"), class_="card"
    )
