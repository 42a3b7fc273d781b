"""Reads the test sets and what each row's trials found on them, once for all sections that show images or curves.

Every trial leaves a summary of its detections (`evaluation.trial_summary`). Where a trial has no summary, this module
makes it from the saved detections and keeps it beside them.
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
from transfer.evaluation.precision_recall import PrecisionRecall
from transfer.evaluation.predictions import EvaluationError, ImageDetections, load_coco_json, predictions_file
from transfer.evaluation.protocols import PROTOCOLS
from transfer.evaluation.trial_summary import TrialSummary
from transfer.report.collected import ColumnReport, RowReport
from transfer.tasks.instances import INSTANCES
from transfer.trials.plan import Plan
from transfer.trials.run import trial_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """Holds what one row's trials found on a test set.

    Attributes:
        row: the row's name.
        colour: the row's position in the experiment, which chooses its colour.
        seed: the seed of the row's first finished trial.
        detections: the detections of that trial by image id; the most confident ones, as many as there are objects.
        curves: precision over recall of that trial; None if the protocol has no such curves.
        objects: (images,) the number of objects found in each image, as the mean over the row's finished trials; see
            `evaluation.objects_found`.
        trials: the number of trials in that mean.
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
    """Holds a test set and the rows that have detections on it.

    Attributes:
        dataset: the test set.
        rows: the rows with at least one trial whose detections were kept, in the experiment's order.
    """

    dataset: Dataset
    rows: tuple[Found, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the classes."""
        return self.dataset.classes

    @property
    def records(self) -> Sequence[Record]:
        """Returns one record per image."""
        return self.dataset.records

    def row(self, colour: int) -> Found | None:
        """Returns what the row of this colour found, or None if its detections were not kept."""
        return next((found for found in self.rows if found.colour == colour), None)


def read(plan: Plan, report: ColumnReport) -> list[Evaluated]:
    """Reads the test sets of the column's first row with a result, and the detections of every row on them.

    Returns:
        One entry per test set of boxes on which any row has detections; an empty list for a column of probes.

    Raises:
        ValueError, OSError: a data set is missing or cannot be read.
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
            continue  # the section `maps` shows these
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
    """Returns (seed, file of detections) of every finished trial that kept its detections."""
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
    """Reads one row's trials; returns None if none of their files could be read."""
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
    """Summarises saved detections, and saves the summary beside them for the next report if the folder is writable."""
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
        EvaluationError: the detections are of another data set.
    """
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset)
    evaluator.merge([detections])
    return evaluator.scores()
