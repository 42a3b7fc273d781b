"""Cityscapes' AP against its definition written out over pixels, and by hand in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from tests.transfer.data import cityscapes_sets as sets
from transfer.data import catalog
from transfer.data.cityscapes import VOID
from transfer.data.dataset import Dataset
from transfer.evaluation.cityscapes import CityscapesEvaluator
from transfer.evaluation.predictions import EvaluationError, ImageDetections


def detections(image_id: str, masks: list[np.ndarray], scores: list[float], classes: list[int]) -> ImageDetections:
    rles = [mask_util.encode(np.asfortranarray(m, dtype=np.uint8)) for m in masks]
    boxes = mask_util.toBbox(rles).reshape(-1, 4) if rles else np.zeros((0, 4))
    return ImageDetections(image_id, boxes, np.array(scores, float), np.array(classes, np.int64).reshape(-1), rles)


def noisy(dataset: Dataset, seed: int) -> list[ImageDetections]:
    """Objects shifted, grown, doubled and invented, some classes wrong, scores with ties."""
    rng = np.random.default_rng(seed)
    found = []
    for record in dataset.records:
        masks, classes = [], []
        for annotation in record["annotations"]:
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            for _ in range(int(rng.integers(0, 3))):
                masks.append(np.roll(mask, tuple(rng.integers(-2, 3, 2)), axis=(0, 1)))
                classes.append(annotation["category_id"] if rng.random() < 0.8 else int(rng.integers(0, 8)))
        for _ in range(3):
            invented = np.zeros((record["height"], record["width"]), bool)
            x, y = int(rng.integers(0, 60)), int(rng.integers(0, 40))
            invented[y : y + 12, x : x + 16] = True
            masks.append(invented)
            classes.append(int(rng.choice([0, 2, 7])))
        masks.append(np.zeros((record["height"], record["width"]), bool))  # covers nothing
        classes.append(2)
        found.append(detections(record["image_id"], masks, np.round(rng.random(len(masks)), 1).tolist(), classes))
    return found


def by_definition(dataset: Dataset, found: list[ImageDetections]) -> dict[str, float]:
    """AP and AP50, every overlap counted pixel by pixel."""
    table = np.full((len(dataset.classes), 10), np.nan)
    for c, label in enumerate(dataset.category_ids):
        for i in range(10):
            threshold = 0.5 + 0.05 * i
            entries: list[tuple[float, bool]] = []
            missed = objects = 0
            for d, path in zip(found, dataset.truth, strict=True):
                ids = sets_ids(path)
                void = np.isin(ids, VOID)
                own = [v for v in np.unique(ids).tolist() if (v // 1000 if v >= 1000 else v) == label]
                guesses = [
                    (mask_util.decode(m).astype(bool), float(s))
                    for m, s, k in zip(d.masks, d.scores, d.classes, strict=True)  # type: ignore[arg-type]
                    if k == c and mask_util.area(m)
                ]
                for value in own:
                    if value < 1000 or (ids == value).sum() < 100:
                        continue
                    objects += 1
                    finders = sorted((s for m, s in guesses if iou(m, ids == value) > threshold), reverse=True)
                    missed += not finders
                    entries += [(s, rank == 0) for rank, s in enumerate(finders)]
                for mask, score in guesses:
                    if any(iou(mask, ids == value) > threshold for value in own):
                        continue
                    ignored = (mask & void).sum()
                    for value in own:
                        ignored += (mask & (ids == value)).sum() * (value < 1000)
                        ignored += (mask & (ids == value)).sum() * ((ids == value).sum() < 100)
                    if ignored / mask.sum() <= threshold:
                        entries.append((score, False))
            if objects:
                table[c, i] = curve(entries, missed)
    return {"segm/AP": 100 * np.nanmean(table), "segm/AP50": 100 * np.nanmean(table[:, 0])}


def curve(entries: list[tuple[float, bool]], missed: int) -> float:
    """Points at every distinct score, each weighing half the distance between the recalls of its neighbours."""
    points = []
    for score in sorted({s for s, _ in entries}):
        right = sum(r for s, r in entries if s >= score)
        points.append((right / sum(s >= score for s, _ in entries), right / (sum(r for _, r in entries) + missed)))
    points.append((1.0, 0.0))
    recalls = [points[0][1], *(r for _, r in points), 0.0]
    return sum(p * (recalls[i] - recalls[i + 2]) / 2 for i, (p, _) in enumerate(points))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def sets_ids(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path)).astype(int)


def score(dataset: Dataset, found: list[ImageDetections]) -> CityscapesEvaluator:
    evaluator = CityscapesEvaluator(dataset, masks=True)
    for d in found:
        evaluator.add(d)
    return evaluator


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(tmp_path: Path, seed: int) -> None:
    dataset = catalog.open_dataset(catalog.read_spec_file(sets.make(tmp_path, seed=seed))[0])
    found = noisy(dataset, seed)
    metrics = score(dataset, found).scores().metrics
    assert 1 < metrics["segm/AP"] < 99
    assert metrics == pytest.approx(by_definition(dataset, found), abs=1e-9)


def test_the_truth_scores_100_and_merging_changes_nothing(tmp_path: Path) -> None:
    dataset = catalog.open_dataset(catalog.read_spec_file(sets.make(tmp_path))[0])
    truth = [
        detections(
            r["image_id"],
            [mask_util.decode(a["segmentation"]) for a in r["annotations"] if not a["iscrowd"]],
            [1.0 for a in r["annotations"] if not a["iscrowd"]],
            [a["category_id"] for a in r["annotations"] if not a["iscrowd"]],
        )
        for r in dataset.records
    ]
    scores = score(dataset, truth).scores()
    assert scores.metrics == {"segm/AP": 100, "segm/AP50": 100}
    assert math.isnan(scores.per_class["train"]["segm/AP"]) and scores.per_class["car"]["segm/AP"] == 100
    parts = [score(dataset, truth[0::2]), score(dataset, truth[1::2])]
    parts[0].merge([p.state() for p in parts])
    assert parts[0].scores().to_json() == scores.to_json()


def test_void_forgives(tmp_path: Path) -> None:
    """One car of 20x20 found; a second prediction on void alone costs nothing, on road it does."""
    ids = np.full((64, 96), sets.ROAD)
    ids[:, :30] = sets.STATIC
    ids[10:30, 50:70] = 26001
    sets.write(tmp_path, "a", ids)
    (tmp_path / "s.yaml").write_text("name: s\nformat: cityscapes\nroot: .\nsplits: [val]\n")
    dataset = catalog.open_dataset(catalog.read_spec_file(tmp_path / "s.yaml")[0])
    car, void, road = ids == 26001, ids == sets.STATIC, np.zeros_like(ids, bool)
    road[40:60, 40:60] = True
    ap = [
        score(dataset, [detections("a", [car, other], [0.5, 0.9], [2, 2])]).scores().metrics["segm/AP50"]
        for other in (void, road)
    ]
    assert ap == [100, 25]  # precision 1/2 at recall 1, which weighs half the way from recall 0 to 1


def test_nothing_found_and_masks_of_another_size(tmp_path: Path) -> None:
    dataset = catalog.open_dataset(catalog.read_spec_file(sets.make(tmp_path))[0])
    empty = [detections(r["image_id"], [], [], []) for r in dataset.records]
    scores = score(dataset, empty).scores()
    assert scores.metrics == {"segm/AP": 0, "segm/AP50": 0}
    with pytest.raises(EvaluationError, match="a mask of 90x64, but the image is 96x64"):
        score(dataset, [detections(dataset.records[0]["image_id"], [np.ones((64, 90))], [0.5], [2])])
