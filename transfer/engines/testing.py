"""Turns a model's predictions into metrics and files, in one loop that both engines share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime import dist
from transfer.data.dataset import Dataset
from transfer.engines.resolve import RunNotes
from transfer.evaluation.detections import UnscoredEvaluator
from transfer.evaluation.evaluator import Evaluator

logger = logging.getLogger(__name__)


def test(
    datasets: Sequence[Dataset],
    evaluator: Callable[[Dataset], Evaluator],
    predict: Callable[[Dataset], Iterable[Any]],
    output_dir: Path,
    notes: RunNotes,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores a model on data sets; every process predicts its share, the main one scores and writes the files.

    Args:
        evaluator: makes a fresh evaluator for a data set.
        predict: yields the predictions of this process's images, as the evaluator takes them.
        output_dir: folder that keeps the predictions.
        notes: receives what a reader of the numbers must know.

    Returns:
        Metric key -> points (with the data set's name in front if there are several), and per data set the details
        for `RunResult.extra`; both are empty in all processes but the main one.
    """
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for dataset in datasets:
        found = UnscoredEvaluator(dataset) if dataset.unannotated else evaluator(dataset)
        for prediction in predict(dataset):
            found.add(prediction)
        states = dist.gather_objects(found.state())
        if not dist.is_main():
            continue
        logger.info("scoring the predictions of '%s': %d images", dataset.name, len(dataset.records))
        found.merge(states)
        found.save(output_dir)
        scores = found.scores()
        found.summarise(output_dir, scores)
        prefix = "" if len(datasets) == 1 else f"{dataset.name}/"
        metrics |= {prefix + key: value for key, value in scores.metrics.items()}
        details[dataset.name] = scores.details()
        for note in (*scores.notes, *_why(prefix, scores.metrics, scores.undefined)):
            notes.add(note)
    return metrics, details


def _why(prefix: str, metrics: Mapping[str, float], undefined: Mapping[str, str]) -> list[str]:
    """Returns one sentence per reason why metrics are undefined."""
    reasons: dict[str, list[str]] = {}
    for key in metrics:
        if key in undefined:
            reasons.setdefault(undefined[key], []).append(prefix + key)
    return [f"{', '.join(keys)}: undefined, since {reason}" for reason, keys in reasons.items()]
