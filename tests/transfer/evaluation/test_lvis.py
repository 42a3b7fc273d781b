"""LVIS' AP: COCO's where everything is annotated, and by hand where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.transfer.data import lvis_sets as sets
from transfer.data import catalog
from transfer.data.dataset import Dataset
from transfer.data.segmentation import as_rle
from transfer.evaluation.coco_ap import coco_average_precision
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.lvis import LVISEvaluator, surest
from transfer.evaluation.predictions import ImageDetections


def opened(root: Path, data: dict) -> Dataset:
    return catalog.open_dataset(catalog.read_spec_file(sets.write(root, data))[0])


def perfect(dataset: Dataset) -> list[ImageDetections]:
    found = []
    for r in dataset.records:
        boxes = np.array([a["bbox"] for a in r["annotations"]], float).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in r["annotations"]], np.int64)
        masks = [as_rle(a["segmentation"], r["height"], r["width"]) for a in r["annotations"]]
        found.append(ImageDetections(r["image_id"], boxes, np.ones(len(boxes)), classes, masks))
    return found


def noisy(dataset: Dataset, seed: int, cap: int = 100) -> list[ImageDetections]:
    """Moved, doubled, mistaken, with ties in the scores."""
    rng = np.random.default_rng(seed)
    found = []
    for r, d in zip(dataset.records, perfect(dataset), strict=True):
        pick = rng.integers(0, max(len(d.scores), 1), min(2 * len(d.scores), cap))
        boxes = d.boxes[pick] + rng.normal(0, 2, (len(pick), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        classes = np.where(rng.random(len(pick)) < 0.7, d.classes[pick], rng.integers(0, sets.CLASSES, len(pick)))
        squares = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
        masks = [as_rle(s, r["height"], r["width"]) for s in squares]
        found.append(ImageDetections(r["image_id"], boxes, np.round(rng.random(len(pick)), 1), classes, masks))
    return found


def scores(dataset: Dataset, found: list[ImageDetections], masks: bool = True) -> Scores:
    evaluator = LVISEvaluator(dataset, masks=masks)
    for d in found:
        evaluator.add(d)
    return evaluator.scores()


def test_the_truth_scores_100(tmp_path: Path) -> None:
    dataset = opened(tmp_path, sets.contents())
    metrics = scores(dataset, perfect(dataset)).metrics
    assert all(value == pytest.approx(100) for key, value in metrics.items() if key != "segm/APl" and key != "bbox/APl")
    assert set(metrics) == {m.key for m in _protocol().metrics}


def _protocol():
    from transfer.evaluation.protocols import PROTOCOLS

    return PROTOCOLS["lvis"]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_is_coco_ap_where_every_image_says_everything(tmp_path: Path, kind: str) -> None:
    dataset = opened(tmp_path, sets.contents(exhaustive=True))
    found = noisy(dataset, 0)
    coco = coco_average_precision(dataset, found, kind)  # type: ignore[arg-type]
    ours = scores(dataset, found)
    assert 1 < coco.AP < 99
    for name in ("AP", "AP50", "AP75", "APs", "APm"):
        assert ours.metrics[f"{kind}/{name}"] == pytest.approx(getattr(coco, name), abs=1e-9)
    for name, value in coco.per_class.items():
        assert ours.per_class[name][f"{kind}/AP"] == pytest.approx(value, abs=1e-9, nan_ok=True)
    groups = [list(coco.per_class.values())[i : i + 4] for i in (0, 4, 8)]
    for key, values in zip(("APr", "APc", "APf"), groups, strict=True):
        assert ours.metrics[f"{kind}/{key}"] == pytest.approx(np.nanmean(values), abs=1e-9)


def _false(dataset: Dataset, c: int) -> list[ImageDetections]:
    """Perfect detections, and in the first image a surer one of class `c` where nothing is."""
    first, *others = perfect(dataset)
    box = np.array([[0.0, 0.0, 5.0, 5.0]])
    boxes, classes = np.concatenate([box, first.boxes]), np.concatenate([[c], first.classes])
    values = np.concatenate([[2.0], first.scores])
    return [ImageDetections(first.image_id, boxes, values, classes), *others]


def test_only_what_an_image_speaks_of_counts(tmp_path: Path) -> None:
    """A false detection costs where the class is absent or fully annotated, and nowhere else."""
    dataset = opened(tmp_path, sets.contents(seed=3))
    present = {a["category_id"] for a in dataset.records[0]["annotations"]}
    partial, absent = set(dataset.truth.partial[0]), set(dataset.truth.absent[0])
    silent = set(range(sets.CLASSES)) - present - absent
    assert partial and absent and silent and present - partial
    for classes, costs in ((partial, False), (silent, False), (absent, True), (present - partial, True)):
        c = sorted(classes)[-1]
        ap = scores(dataset, _false(dataset, c), masks=False).per_class[dataset.classes[c]]["bbox/AP"]
        assert (ap < 100) == costs, (c, ap)


def test_300_detections_per_image_over_all_classes() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.random(500), 2)
    d = ImageDetections(7, np.zeros((500, 4)), values, np.arange(500) % 12)
    kept = surest(d, 1)
    assert kept.image_id == 1 and len(kept.scores) == 300
    assert kept.scores.tolist() == sorted(values.tolist(), reverse=True)[:300]
    assert kept.classes.tolist() == [d.classes[i] for i in np.argsort(-values, kind="stable")[:300]]


def test_nothing_found_has_a_reason(tmp_path: Path) -> None:
    dataset = opened(tmp_path, sets.contents())
    nothing = scores(dataset, [ImageDetections(r["image_id"], np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [])
                               for r in dataset.records])  # fmt: skip
    assert np.isnan(nothing.metrics["segm/AP"]) and "SCORE_THRESH_TEST" in nothing.undefined["segm/AP"]
