"""A test set with what the rows' trials found on it, read once for all sections that show images or curves.

Trials leave a summary of it (`evaluation.trial_summary`); of those that have none it is made here, and kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pretrain.runtime.log import progress
from transfer.data import catalog
from transfer.data.catalog import Dataset, Record
from transfer.evaluation import trial_summary
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.precision import PrecisionRecall
from transfer.evaluation.predictions import EvaluationError, ImageDetections, load_coco_json, predictions_file
from transfer.evaluation.protocols import PROTOCOLS
from transfer.evaluation.trial_summary import TrialSummary
from transfer.report.collected import ColumnReport, RowReport
from transfer.tasks.instances import INSTANCES
from transfer.trials.reproduce import Plan
from transfer.trials.run import trial_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What one row's trials found on a test set.

    Attributes:
        seed: of the row's first finished trial.
        detections: its surest ones by image id, as many as there are objects.
        curves: its precision over recall; None if the protocol has none.
        objects: (images,) objects found in each image, mean over the row's finished trials; see `objects_found`.
        trials: how many those are.
    """

    row: str
    colour: int
    seed: int
    detections: Mapping[str | int, ImageDetections]
    curves: PrecisionRecall | None
    objects: np.ndarray
    trials: int


@dataclass(frozen=True)
class Evaluated:
    """`rows`: those with a trial whose detections were kept, in the experiment's order."""

    dataset: Dataset
    rows: tuple[Found, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def records(self) -> Sequence[Record]:
        return self.dataset.records

    def row(self, colour: int) -> Found | None:
        return next((found for found in self.rows if found.colour == colour), None)


def read(plan: Plan, report: ColumnReport) -> list[Evaluated]:
    """The test sets with detections of the first row that has a result; none of a probe.

    Raises:
        ValueError, OSError: a data set is not here or cannot be read.
    """
    number = next((i for i, row in enumerate(report.rows) if row.results), None)
    job = None if number is None else report.rows[number].job
    if job is None:
        return []
    cfg = plan.config(job.config, job.opts)
    sets = []
    for spec in catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS):
        dataset = catalog.open_dataset(spec)
        if PROTOCOLS[dataset.protocols[0]].maps:
            continue  # `maps` shows these
        kept = [_trials(row, spec.name) for row in report.rows]
        with progress(sum(map(len, kept)), f"detections on {spec.name}", "trials", disable=not any(kept)) as bar:
            rows = [
                _read(row, i, trials, dataset, bar)
                for i, (row, trials) in enumerate(zip(report.rows, kept, strict=True))
            ]
        if found := tuple(row for row in rows if row is not None):
            sets.append(Evaluated(dataset, found))
    return sets


def _trials(row: RowReport, dataset: str) -> list[tuple[int, Path]]:
    """(seed, file) of the finished trials that kept their detections."""
    files = [(r.seed, trial_folder(row.folder, r.seed) / predictions_file(dataset)) for r in row.results]
    for seed, path in files:
        if not path.is_file():
            logger.warning(
                "row '%s', seed %d: no %s, so its detections are not in the report", row.name, seed, path.name
            )
    return [(seed, path) for seed, path in files if path.is_file()]


def _read(
    row: RowReport,
    colour: int,
    files: Sequence[tuple[int, Path]],
    dataset: Dataset,
    bar: tqdm,
) -> Found | None:
    first, counts = None, []
    for seed, path in files:
        try:
            summary = trial_summary.load(path.parent, dataset) or _summarised(path, dataset)
        except EvaluationError as error:
            logger.warning("row '%s' is not among the test images: %s", row.name, error)
            continue
        finally:
            bar.update()
        counts.append(summary.objects)
        first = first or (seed, summary.surest, summary.curves)
    if first is None:
        return None
    return Found(row.name, colour, *first, np.mean(counts, axis=0), len(counts))


def _summarised(path: Path, dataset: Dataset) -> TrialSummary:
    """The summary of detections, kept beside them for the next report where that can be."""
    detections = load_coco_json(path, dataset.category_ids)
    summary = trial_summary.summary(dataset, detections, box_scores(dataset, detections))
    try:
        trial_summary.save(path.parent, dataset, summary)
    except OSError as error:
        logger.info("the summary of '%s' is not kept: %s", path, error)
    return summary


def box_scores(dataset: Dataset, detections: Sequence[ImageDetections]) -> Scores:
    """Scores the boxes of saved detections by the data set's protocol.

    Raises:
        EvaluationError: detections that are not of this set.
    """
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset)
    evaluator.merge([detections])
    return evaluator.scores()
