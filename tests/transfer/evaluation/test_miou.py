"""mIoU against a loop over pixels, and what the evaluator keeps, merges, refuses and saves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.transfer.data.test_semantic import CLASSES, label, streets
from transfer.data.dataset import open_dataset
from transfer.evaluation.evaluator import EvaluationError
from transfer.evaluation.miou import Map, MIoUEvaluator, confusion_file, map_file

KEYS = ("mIoU", "fwIoU", "mACC", "pACC")


@pytest.fixture
def dataset(tmp_path):
    spec = streets(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "labels").glob("**/*.png")):
        label(path, rng.choice([0, 1, 255], (30, 40)))  # no car anywhere
    return open_dataset(spec)


def random_maps(dataset, seed=1):
    rng = np.random.default_rng(seed)
    return [Map(r["image_id"], rng.integers(0, 3, (30, 40))) for r in dataset.records]


def naive(dataset, maps):
    """Per class the pixels where both, labelled, predicted; ignored ones nowhere."""
    both, labelled, predicted = ({c: 0 for c in range(3)} for _ in range(3))
    for record, found in zip(dataset.records, maps, strict=True):
        truth = np.asarray(Image.open(record["sem_seg_file_name"]))
        for t, p in zip(truth.ravel().tolist(), found.classes.ravel().tolist(), strict=True):
            if t != 255:
                labelled[t] += 1
                predicted[p] += 1
                both[t] += t == p
    there = [c for c in range(3) if labelled[c]]
    iou = {c: both[c] / (labelled[c] + predicted[c] - both[c]) for c in there}
    total = sum(labelled.values())
    scores = {
        "mIoU": sum(iou.values()) / len(there),
        "fwIoU": sum(iou[c] * labelled[c] / total for c in there),
        "mACC": sum(both[c] / labelled[c] for c in there) / len(there),
        "pACC": sum(both.values()) / total,
    }
    return {f"sem_seg/{k}": 100 * v for k, v in scores.items()}, {c: 100 * v for c, v in iou.items()}


def test_equals_a_loop_over_pixels(dataset):
    evaluator, maps = MIoUEvaluator(dataset), random_maps(dataset)
    for found in maps:
        evaluator.add(found)
    scores = evaluator.scores()
    metrics, iou = naive(dataset, maps)
    assert scores.metrics == pytest.approx(metrics) and scores.protocol == "miou"
    assert {c: scores.per_class[c]["sem_seg/mIoU"] for c in CLASSES[:2]} == pytest.approx(
        {CLASSES[c]: v for c, v in iou.items()}
    )
    assert np.isnan(scores.per_class["car"]["sem_seg/mIoU"]) and "no pixel of car" in scores.notes[0]
    assert scores.to_json()["per_class"]["car"] == {"sem_seg/mIoU": None}


def test_what_is_right_scores_100(dataset):
    evaluator = MIoUEvaluator(dataset)
    for record in dataset.records:
        truth = np.asarray(Image.open(record["sem_seg_file_name"]))
        evaluator.add(Map(record["image_id"], np.where(truth == 255, 2, truth)))  # a car where it is ignored
    assert evaluator.scores().metrics == dict.fromkeys((f"sem_seg/{k}" for k in KEYS), 100.0)


def test_processes_merge_to_the_same(dataset):
    whole, parts, maps = MIoUEvaluator(dataset), [MIoUEvaluator(dataset) for _ in range(2)], random_maps(dataset)
    for i, found in enumerate(maps):
        whole.add(found)
        parts[i % 2].add(found)
    merged = MIoUEvaluator(dataset)
    merged.merge([part.state() for part in parts])
    assert merged.scores().metrics == whole.scores().metrics and merged.kept.keys() == whole.kept.keys()
    with pytest.raises(EvaluationError, match="two sets of predictions"):
        merged.merge([whole.state(), parts[0].state()])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: Map("z", f.classes), "which the dataset lacks"),
        (lambda f: Map(f.image_id, f.classes.T), "a map of 30x40, but the image is 40x30"),
        (lambda f: Map(f.image_id, f.classes + 1), "class 3 is out of range"),
        (lambda f: Map(f.image_id, f.classes - 1), "class -1 is out of range"),
    ],
)
def test_a_map_that_cannot_be_is_refused(change, words, dataset):
    with pytest.raises(EvaluationError, match=words):
        MIoUEvaluator(dataset).add(change(random_maps(dataset)[0]))


def test_an_image_twice_is_refused(dataset):
    evaluator, maps = MIoUEvaluator(dataset), random_maps(dataset)
    evaluator.add(maps[0])
    with pytest.raises(EvaluationError, match="evaluate each image once"):
        evaluator.add(maps[0])


def test_nothing_added_is_undefined_with_a_reason(dataset):
    scores = MIoUEvaluator(dataset).scores()
    assert all(np.isnan(v) for v in scores.metrics.values()) and set(scores.undefined) == set(scores.metrics)


def test_saves_the_matrix_and_the_first_maps(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.evaluation.miou.KEPT", 2)
    evaluator, maps = MIoUEvaluator(dataset), random_maps(dataset)
    for found in maps:
        evaluator.add(found)
    evaluator.save(tmp_path)
    saved = json.loads((tmp_path / confusion_file(dataset.name)).read_text())
    assert saved["classes"] == list(CLASSES) and np.array_equal(saved["confusion"], evaluator.confusion)
    assert len(list((tmp_path / f"maps_{dataset.name}").iterdir())) == 2
    assert np.array_equal(np.asarray(Image.open(map_file(tmp_path, dataset.name, 1))), maps[1].classes)
