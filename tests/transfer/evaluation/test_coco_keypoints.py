"""COCO's keypoint AP: small cases, pycocotools on the same numbers, Detectron2's evaluator on the same files."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.transfer.data.sets import box, keypoint_set
from transfer.data import catalog
from transfer.data.dataset import Dataset
from transfer.data.keypoints import COCO_SIGMAS
from transfer.evaluation.coco_ap import BACKENDS, coco_average_precision
from transfer.evaluation.coco_keypoints import COCOKeypointEvaluator, oks_sigmas
from transfer.evaluation.predictions import EvaluationError, ImageDetections, load_coco_json
from transfer.evaluation.protocols import PROTOCOLS

STATISTICS = ("AP", "AP50", "AP75", "APm", "APl")
W, H = 200, 160


def poses(root: Path, points: int, seed: int, ids: str = "odd") -> Dataset:
    """Twelve images with people of all sizes, some points hidden or not labelled, some people without any, crowds.

    Args:
        ids: "odd" for image and annotation ids that pycocotools cannot take, "plain" for 1, 2, ...
    """
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(12):
        images.append({"id": f"image {number:02d}" if ids == "odd" else number + 1, "file_name": "a.jpg"})
        images[-1] |= {"file_name": f"{number}.jpg", "width": W, "height": H}
        for _ in range(int(rng.integers(1, 5))):
            w, h = rng.uniform(10, 150), rng.uniform(10, 120)
            x, y = rng.uniform(0, W - w), rng.uniform(0, H - h)
            visibility = rng.integers(0, 3, points) * (rng.random() < 0.8)
            xy = np.round(rng.uniform([x, y], [x + w, y + h], (points, 2)), 2) * (visibility > 0)[:, None]
            flat = [float(v) for row in np.column_stack([xy, visibility]) for v in row]
            annotations.append(
                box(len(annotations) + (ids == "plain"), images[-1]["id"], 9, [x, y, w, h], area=0.6 * w * h)  # type: ignore[arg-type]
                | {"keypoints": flat, "num_keypoints": int((visibility > 0).sum()), "iscrowd": int(rng.random() < 0.1)}
            )
    names = [f"p{i}" for i in range(points)]
    file = keypoint_set(
        root,
        images=images,
        annotations=annotations,
        categories=[{"id": 9, "name": "person", "keypoints": names, "skeleton": []}],
    )
    for image in images:
        (root / "images" / image["file_name"]).write_bytes((root / "images" / "a.jpg").read_bytes())
    return catalog.open_dataset(catalog.read_spec_file(file)[0])


def found(dataset: Dataset, seed: int, noise: float = 3.0) -> list[ImageDetections]:
    """The annotated people moved a little, some twice, random scores with ties; every fourth image has nobody."""
    rng = np.random.default_rng(seed)
    detections, count = [], len(dataset.keypoints or ())
    for i, record in enumerate(dataset.records):
        objects = record["annotations"]
        keep = np.concatenate([np.arange(len(objects)), rng.integers(0, len(objects), 2)])[: 0 if i % 4 == 3 else None]
        boxes = np.array([objects[k]["bbox"] for k in keep], np.float32).reshape(-1, 4)
        points = np.array([objects[k]["keypoints"] for k in keep], np.float32).reshape(len(keep), count, 3)
        points[:, :, :2] += rng.normal(0, noise, points.shape[:2] + (2,)) if noise else 0
        points[:, :, 2] = rng.random(points.shape[:2])
        scores = np.round(rng.random(len(keep)), 1).astype(np.float32)
        boxes += rng.normal(0, 1, boxes.shape).astype(np.float32) if noise else 0
        detections.append(
            ImageDetections(record["image_id"], boxes, scores, np.zeros(len(keep), np.int64), keypoints=points)
        )
    return detections


def by_pycocotools(dataset: Dataset, results: list[dict[str, Any]], sigmas: tuple[float, ...]) -> list[float]:
    """The statistics of a results list; ids of the data set's json are numbered from 1 by this function alone."""
    assert dataset.spec.json_file is not None
    truth = json.loads(dataset.spec.json_file.read_text())
    numbers = {image["id"]: i for i, image in enumerate(truth["images"], start=1)}
    for image in truth["images"]:
        image["id"] = numbers[image["id"]]
    for i, annotation in enumerate(truth["annotations"], start=1):
        annotation |= {"id": i, "image_id": numbers[annotation["image_id"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        theirs = [{**r, "image_id": numbers[r["image_id"]]} for r in copy.deepcopy(results)]
        evaluation = COCOeval(coco, coco.loadRes(theirs), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * v if v >= 0 else math.nan for v in evaluation.stats[:5]]


@pytest.mark.parametrize(("points", "sigmas"), [(17, ()), (5, (0.1, 0.05, 0.2, 0.03, 0.1)), (1, (0.4,))])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(tmp_path: Path, points: int, sigmas: tuple[float, ...], seed: int) -> None:
    dataset = poses(tmp_path, points, seed)
    evaluator = COCOKeypointEvaluator(dataset, sigmas=sigmas)
    evaluator.merge([found(dataset, seed)])
    ours = evaluator.scores()
    evaluator.save(tmp_path)
    results = json.loads((tmp_path / "predictions_poses_train.json").read_text())
    want = by_pycocotools(dataset, results, sigmas or COCO_SIGMAS)
    assert [ours.metrics[f"keypoints/{name}"] for name in STATISTICS] == pytest.approx(want, abs=1e-9, nan_ok=True)
    assert 1 < ours.metrics["keypoints/AP"] < 95 and ours.metrics["bbox/AP"] > 1
    assert ours.per_class["person"]["keypoints/AP"] == pytest.approx(want[0], abs=1e-9)
    assert list(ours.metrics)[0] == PROTOCOLS["coco_keypoints"].metrics[0].key == "keypoints/AP"


@pytest.mark.parametrize("seed", range(2))
def test_both_backends_agree(tmp_path: Path, seed: int) -> None:
    dataset = poses(tmp_path, 17, seed)
    fast, slow = (
        coco_average_precision(dataset, found(dataset, seed), "keypoints", name, COCO_SIGMAS) for name in BACKENDS
    )
    for name in STATISTICS:
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), abs=1e-9, nan_ok=True)


def test_perfect_points_score_100_and_far_ones_0(tmp_path: Path) -> None:
    dataset = poses(tmp_path, 17, 0)
    perfect = []
    for record in dataset.records:
        objects = [a for a in record["annotations"] if not a["iscrowd"] and any(a["keypoints"][2::3])]
        points = np.array([a["keypoints"] for a in objects]).reshape(-1, 17, 3)
        boxes = np.array([a["bbox"] for a in objects]).reshape(-1, 4)
        n = len(objects)
        perfect.append(ImageDetections(record["image_id"], boxes, np.full(n, 0.5), np.zeros(n, np.int64), None, points))
    assert coco_average_precision(dataset, perfect, "keypoints", sigmas=COCO_SIGMAS).AP == pytest.approx(100)
    far = [dataclasses.replace(d, keypoints=np.zeros_like(d.keypoints) - 500) for d in perfect]
    assert coco_average_precision(dataset, far, "keypoints", sigmas=COCO_SIGMAS).AP == 0


def test_predictions_survive_their_file(tmp_path: Path) -> None:
    dataset = poses(tmp_path, 4, 0)
    evaluator = COCOKeypointEvaluator(dataset, sigmas=(0.1,) * 4)
    detections = found(dataset, 1)
    evaluator.merge([detections])
    evaluator.save(tmp_path)
    read = load_coco_json(tmp_path / "predictions_poses_train.json", dataset.category_ids)
    for ours, kept in zip(read, (d for d in detections if len(d.scores)), strict=True):
        assert ours.keypoints is not None and kept.keypoints is not None and ours.keypoints.dtype == np.float32
        assert np.array_equal(ours.keypoints, kept.keypoints)


def test_bad_input_is_named(tmp_path: Path) -> None:
    dataset = poses(tmp_path, 3, 0)
    with pytest.raises(EvaluationError, match="KEYPOINT_OKS_SIGMAS is empty, .* 17, but there are 3 keypoints"):
        COCOKeypointEvaluator(dataset)
    with pytest.raises(EvaluationError, match="KEYPOINT_OKS_SIGMAS has 2 numbers, but there are 3"):
        COCOKeypointEvaluator(dataset, sigmas=(0.1, 0.2))
    assert oks_sigmas([], 17) == COCO_SIGMAS and oks_sigmas([0.5], 1) == (0.5,)
    evaluator = COCOKeypointEvaluator(dataset, sigmas=(0.1,) * 3)
    first = found(dataset, 0)[0]
    with pytest.raises(EvaluationError, match="'image 00' has detections without keypoints"):
        evaluator.add(dataclasses.replace(first, keypoints=None))
    with pytest.raises(EvaluationError, match="detections with 2 keypoints; .* has 3"):
        evaluator.add(dataclasses.replace(first, keypoints=first.keypoints[:, :2]))  # type: ignore[index]
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        dataclasses.replace(first, keypoints=np.full((len(first.scores), 3, 3), np.nan))
    with pytest.raises(EvaluationError, match=r"keypoints \(1, 3, 3\); expected"):
        dataclasses.replace(first, keypoints=np.zeros((1, 3, 3)))


@pytest.mark.parametrize(
    ("points", "message"),
    [("x", "are not"), ([1, 2], "are not"), ([1, 2, None], "are not"), ([1, 2, 0.5], "numbers of keypoints")],
)
def test_a_faulty_file_is_named(tmp_path: Path, points: Any, message: str) -> None:
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    (tmp_path / "p.json").write_text(
        json.dumps([{**entry, "keypoints": [1, 2, 1] * 2}, {**entry, "keypoints": points}])
    )
    with pytest.raises(EvaluationError, match=f"number 1|detection 1: keypoints .* {message}"):
        load_coco_json(tmp_path / "p.json", [1])


def test_what_is_undefined_has_a_reason(tmp_path: Path) -> None:
    dataset = poses(tmp_path, 2, 0)
    evaluator = COCOKeypointEvaluator(dataset, sigmas=(0.1, 0.1))
    scores = evaluator.scores()
    assert math.isnan(scores.metrics["keypoints/AP"]) and "score above" in scores.undefined["keypoints/AP"]
    none = [box(1, "image 00", 9, [0, 0, 50, 50], keypoints=[0] * 6, num_keypoints=0)]  # type: ignore[arg-type]
    data = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(data | {"annotations": none}))
    bare = catalog.open_dataset(dataset.spec)
    evaluator = COCOKeypointEvaluator(bare, sigmas=(0.1, 0.1))
    evaluator.merge([found(dataset, 0)])
    assert evaluator.scores().undefined["keypoints/AP"] == "no object has a labelled keypoint"


@pytest.mark.d2
@pytest.mark.parametrize("points", [17, 5])
def test_equals_detectron2(tmp_path: Path, points: int) -> None:
    pytest.importorskip("detectron2")
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    dataset = poses(tmp_path, points, 1, ids="plain")
    detections = found(dataset, 1)
    name = f"keypoint_ap_{tmp_path}"
    MetadataCatalog.get(name).set(
        json_file=str(dataset.spec.json_file), thing_classes=["person"], thing_dataset_id_to_contiguous_id={9: 0}
    )
    sigmas = COCO_SIGMAS if points == 17 else (0.1, 0.05, 0.2, 0.03, 0.1)
    evaluator = COCOEvaluator(name, distributed=False, kpt_oks_sigmas=sigmas)
    evaluator.reset()
    for d in detections:
        instances = Instances((H, W))
        instances.pred_boxes, instances.scores = Boxes(torch.from_numpy(d.boxes)), torch.from_numpy(d.scores)
        instances.pred_classes = torch.from_numpy(d.classes)
        instances.pred_keypoints = torch.from_numpy(d.keypoints.copy())  # type: ignore[union-attr]
        evaluator.process([{"image_id": d.image_id}], [{"instances": instances}])
    theirs = evaluator.evaluate()
    ours = COCOKeypointEvaluator(dataset, sigmas=sigmas)
    ours.merge([detections])
    metrics = ours.scores().metrics
    for task, names in (("keypoints", STATISTICS), ("bbox", ("AP", "AP50", "AP75", "APs", "APm", "APl"))):
        assert [metrics[f"{task}/{n}"] for n in names] == pytest.approx(
            [theirs[task][n] for n in names], abs=1e-9, nan_ok=True
        )
