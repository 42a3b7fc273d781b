"""The summary of a trial's detections says what they say, and is not read where it is of others or damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from transfer.data import catalog
from transfer.data.dataset import Dataset
from transfer.evaluation import trial_summary
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.objects_found import finders, objects
from transfer.evaluation.precision_recall import precision_recall
from transfer.evaluation.predictions import ImageDetections
from transfer.evaluation.protocols import PROTOCOLS


@pytest.fixture(params=["voc", "coco"])
def scored(request: pytest.FixtureRequest, generated: Path, tmp_path: Path) -> tuple[Dataset, list, Scores]:
    """A test set, and detections on it as a run leaves them in `tmp_path`: moved, repeated, of other classes."""
    (spec,) = [s for s in catalog.read_spec_file(generated / f"{request.param}.yaml") if s.split in ("test", "val")]
    dataset, rng = catalog.open_dataset(spec), np.random.default_rng(0)
    evaluator = PROTOCOLS[dataset.protocols[0]].evaluator(dataset)
    for record in list(dataset.records)[1:]:  # on the first nothing is found
        boxes = np.array([a["bbox"] for a in record["annotations"] * 3], np.float32).reshape(-1, 4)
        boxes += rng.normal(0, 4, boxes.shape).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        classes = np.array([a["category_id"] for a in record["annotations"] * 3], np.int64)
        classes[rng.random(len(classes)) < 0.2] = 0
        scores = rng.integers(1, 9, len(boxes)).astype(np.float32) / 8
        evaluator.add(ImageDetections(record["image_id"], boxes, scores, classes))
    evaluator.save(tmp_path)
    scores = evaluator.scores()
    evaluator.summarise(tmp_path, scores)
    return dataset, evaluator.detections, scores


def test_it_says_what_the_detections_say(scored: tuple[Dataset, list[ImageDetections], Scores], tmp_path: Path) -> None:
    dataset, detections, scores = scored
    found, by_image = trial_summary.load(tmp_path, dataset), {d.image_id: d for d in detections}
    assert found is not None
    counts = [len(finders(r, by_image.get(r["image_id"]))) for r in dataset.records]
    assert found.objects.tolist() == counts and sum(counts) > 3
    for record in dataset.records:
        all_of, kept = by_image.get(record["image_id"]), found.surest.get(record["image_id"])
        if all_of is None or not objects(record):
            assert kept is None
            continue
        order = sorted(range(len(all_of.scores)), key=lambda i: (-all_of.scores[i], i))[: len(objects(record))]
        assert kept is not None and np.array_equal(kept.boxes, all_of.boxes[order])
        assert np.array_equal(kept.classes, all_of.classes[order])
        assert [order[i] for i in finders(record, kept)] == finders(record, all_of)
    curves = precision_recall(scores)
    assert curves is not None and found.curves is not None
    assert (found.curves.label, found.curves.mean_score) == (curves.label, curves.mean_score)
    assert found.curves.scores == {name: curves.scores[name] for name in curves.curves}
    for name, sampled in curves.sampled().items():
        assert np.array_equal(found.curves.sampled()[name], sampled)
    assert np.array_equal(found.curves.mean(), curves.mean())


def test_of_other_detections_or_annotations_it_is_not_read(
    scored: tuple[Dataset, list, Scores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _, _ = scored
    other = replace(dataset)
    object.__setattr__(other, "annotation_digest", "0" * 16)
    assert trial_summary.load(tmp_path, dataset) is not None and trial_summary.load(tmp_path, other) is None
    with monkeypatch.context() as m:
        m.setattr(trial_summary, "VERSION", "0")
        assert trial_summary.load(tmp_path, dataset) is None
    (predictions,) = tmp_path.glob("predictions_*.json")
    predictions.write_text(json.dumps(json.loads(predictions.read_text())[1:]))
    assert trial_summary.load(tmp_path, dataset) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", lambda a: a * -1),
        ("counts", lambda a: a.astype(np.float32)),
        ("counts", lambda a: a[:-1]),
        ("counts", lambda a: a + 2**62),
        ("objects", lambda a: a * np.nan),
        ("objects", lambda a: a[None]),
        ("boxes", lambda a: a[:-1]),
        ("boxes", lambda a: a[:, :3]),
        ("boxes", lambda a: np.full_like(a, np.inf)),
        ("scores", lambda a: a[:, None]),
        ("classes", lambda a: a + 1000),
        ("classes", lambda a: a.astype(np.float64)),
        ("curves", lambda a: a[:-1]),
        ("curves", lambda a: a - 2),
        ("keypoints", lambda a: np.zeros((3, 3))),
    ],
)
def test_damage_is_said_and_nothing_else_happens(scored, name, value, tmp_path: Path, caplog) -> None:
    dataset, _, _ = scored
    (path,) = tmp_path.glob("*.safetensors")
    from safetensors import safe_open

    with safe_open(path, "np") as f:
        said = f.metadata()
    arrays = load_file(path)
    arrays[name] = np.ascontiguousarray(value(arrays.get(name)))
    save_file(arrays, path, said)
    assert trial_summary.load(tmp_path, dataset) is None and "is damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}"])
@pytest.mark.parametrize("curves", ["", "[" * 100_000, '{"label": 1}', '{"scores": 3, "label": "", "mean_score": 1}'])
def test_files_of_other_kinds_are_not_read(scored, content: bytes, curves: str, tmp_path: Path) -> None:
    dataset, _, _ = scored
    (path,) = tmp_path.glob("*.safetensors")
    arrays = load_file(path)
    save_file(arrays, path, trial_summary._made_of(tmp_path, dataset) | {"curves": curves})
    assert trial_summary.load(tmp_path, dataset) is None
    path.write_bytes(content)
    assert trial_summary.load(tmp_path, dataset) is None
    path.unlink()
    assert trial_summary.load(tmp_path, dataset) is None


def test_annotations_that_are_gone_do_not_end_a_trial(scored, tmp_path: Path, monkeypatch, caplog) -> None:
    dataset, detections, scores = scored
    (path,) = tmp_path.glob("*.safetensors")
    path.unlink()

    gone = replace(dataset, spec=replace(dataset.spec, root=tmp_path, json_file=tmp_path / "gone.json"))
    trial_summary.save(tmp_path, gone, trial_summary.summary(dataset, detections, scores))
    assert not path.exists() and "anew" in caplog.text
