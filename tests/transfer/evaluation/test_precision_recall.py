"""Precision over recall: sampled curves against a naive loop, on sets of both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transfer.data import catalog
from transfer.evaluation.precision_recall import RECALLS, at_recalls, precision_recall
from transfer.evaluation.predictions import ImageDetections
from transfer.report.evaluated import box_scores


def test_sampling_is_the_best_precision_from_each_recall_on():
    rng = np.random.default_rng(0)
    for length in (0, 1, 7, 400):
        correct = rng.random(length) < 0.6
        tp = np.cumsum(correct)
        recall, precision = tp / 500, tp / np.arange(1, length + 1)
        naive = [max((p for r, p in zip(recall, precision, strict=True) if r >= at), default=0.0) for at in RECALLS]
        assert at_recalls(recall, precision).tolist() == naive


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_both_formats_agree_on_what_is_found(name: str, generated: Path):
    """Every second object found exactly: precision 1 up to the recall of each class, 0 beyond."""
    (spec,) = [s for s in catalog.read_spec_file(generated / f"{name}.yaml") if s.split in ("test", "val")]
    records = catalog.load(spec)
    found, there, seen = [], dict.fromkeys(range(8), 0), dict.fromkeys(range(8), 0)
    for record in records:
        kept = []
        for a in record["annotations"]:
            if a.get("difficult") or a.get("iscrowd"):
                continue
            if there[a["category_id"]] % 2 == 0:
                kept.append(a)
                seen[a["category_id"]] += 1
            there[a["category_id"]] += 1
        boxes = np.array([a["bbox"] for a in kept], np.float32).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in kept], np.int64)
        found.append(ImageDetections(record["image_id"], boxes, np.ones(len(kept), np.float32), classes))
    result = precision_recall(box_scores(catalog.open_dataset(spec), found))
    assert result is not None
    names = catalog.class_names(spec)
    for c, class_name in enumerate(names):
        if there[c]:
            reached = RECALLS <= seen[c] / there[c] + 1e-9
            assert np.allclose(result.sampled()[class_name], reached)
    assert np.allclose(result.mean(), np.mean(list(result.sampled().values()), axis=0))
    if name == "coco":
        assert abs(100 * result.mean().mean() - result.mean_score) < 1e-6
