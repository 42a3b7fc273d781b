"""COCO AP: small cases, and Detectron2's evaluator on the same predictions."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer.data import catalog
from transfer.data.generated import write
from transfer.evaluation.coco_ap import BACKENDS, COCOResult, coco_average_precision
from transfer.evaluation.predictions import EvaluationError, ImageDetections

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> catalog.DatasetSpec:
    root = tmp_path_factory.mktemp("set") / "generated"
    write(root, iconic_train=0, iconic_val=0, scenes_trainval=25, scenes_test=0)
    return catalog.read_spec_file(root / "coco.yaml")[0]


def truth(spec: catalog.DatasetSpec) -> list[ImageDetections]:
    """The ground truth as detections, with masks."""
    detections = []
    for r in catalog.load(spec):
        size = r["height"], r["width"]
        masks = [mask_util.merge(mask_util.frPyObjects(a["segmentation"], *size)) for a in r["annotations"]]
        boxes = np.array([a["bbox"] for a in r["annotations"]], np.float32).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in r["annotations"]], np.int64)
        detections.append(ImageDetections(r["image_id"], boxes, np.ones(len(boxes), np.float32), classes, masks))
    return detections


def noisy(spec: catalog.DatasetSpec, seed: int) -> list[ImageDetections]:
    """Moved boxes and masks, some classes wrong, some objects twice, random scores with ties, one image without."""
    rng = np.random.default_rng(seed)
    detections = []
    for i, d in enumerate(truth(spec)):
        keep = np.concatenate([np.arange(len(d.scores)), rng.permutation(len(d.scores))[:2]])[: 0 if i == 1 else None]
        masks = [mask_util.decode(d.masks[k]) for k in keep]  # type: ignore[index]
        shifted = [np.asfortranarray(np.roll(m, int(rng.integers(-3, 4)), axis=1)) for m in masks]
        boxes = (d.boxes[keep] + rng.normal(0, 2, (len(keep), 4))).astype(np.float32)
        classes = np.where(rng.random(len(keep)) < 0.8, d.classes[keep], rng.integers(0, 8, len(keep)))
        scores = np.round(rng.random(len(keep)), 1).astype(np.float32)
        detections.append(ImageDetections(d.image_id, boxes, scores, classes, [mask_util.encode(m) for m in shifted]))
    return detections


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_truth_scores_100(spec: catalog.DatasetSpec, iou_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = coco_average_precision(catalog.open_dataset(spec), truth(spec), iou_type)  # type: ignore[arg-type]
    assert (result.AP, result.AP50, result.AP75) == pytest.approx((100, 100, 100))
    assert list(result.per_class) == list(catalog.class_names(spec))
    assert all(ap == pytest.approx(100) for ap in result.per_class.values())
    assert math.isnan(result.APl)  # there is none of 96 x 96
    assert capsys.readouterr().out == ""


def test_no_detections_is_nan(spec: catalog.DatasetSpec) -> None:
    empty = ImageDetections(1, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    for detections in ([], [empty]):
        result = coco_average_precision(catalog.open_dataset(spec), detections)  # type: ignore[arg-type]
        assert all(math.isnan(getattr(result, key)) for key in STATISTICS) and len(result.per_class) == 8


def test_no_ground_truth_is_nan(spec: catalog.DatasetSpec, tmp_path: Path) -> None:
    data = json.loads(Path(str(spec.json_file)).read_text())
    (tmp_path / "empty.json").write_text(json.dumps(data | {"annotations": []}))
    empty = catalog.open_dataset(dataclasses.replace(spec, json_file=tmp_path / "empty.json"))
    result = coco_average_precision(empty, truth(spec))
    assert math.isnan(result.AP) and all(math.isnan(ap) for ap in result.per_class.values())
    with pytest.raises(catalog.DatasetError, match="no object is annotated"):
        empty.check_scorable()


def test_bad_input_is_named(spec: catalog.DatasetSpec) -> None:
    [first, *_] = truth(spec)
    dataset = catalog.open_dataset(spec)
    with pytest.raises(EvaluationError, match="image 777, which the dataset lacks"):
        coco_average_precision(dataset, [dataclasses.replace(first, image_id=777)])
    with pytest.raises(EvaluationError, match="class 8 is out of range; the dataset has 8"):
        coco_average_precision(dataset, [dataclasses.replace(first, classes=first.classes * 0 + 8)])
    with pytest.raises(EvaluationError, match="mask AP is asked for"):
        coco_average_precision(dataset, [dataclasses.replace(first, masks=None)], "segm")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_both_backends_agree(spec: catalog.DatasetSpec, seed: int, iou_type: Literal["bbox", "segm"]) -> None:
    fast, slow = (
        coco_average_precision(catalog.open_dataset(spec), noisy(spec, seed), iou_type, name) for name in BACKENDS
    )
    assert 5 < fast.AP < 95
    for key in STATISTICS:
        assert getattr(fast, key) == pytest.approx(getattr(slow, key), abs=1e-9, nan_ok=True), key
    assert fast.per_class == pytest.approx(slow.per_class, abs=1e-9, nan_ok=True)


@pytest.mark.d2
@pytest.mark.parametrize("seed", range(3))
def test_equals_detectron2(spec: catalog.DatasetSpec, seed: int) -> None:
    pytest.importorskip("detectron2")
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    names, detections = catalog.class_names(spec), noisy(spec, seed)
    dataset = f"coco_ap_{spec.root}"
    ids = {cat_id: i for i, cat_id in enumerate(catalog.category_ids(spec))}
    MetadataCatalog.get(dataset).set(
        json_file=str(spec.json_file), thing_classes=list(names), thing_dataset_id_to_contiguous_id=ids
    )
    evaluator = COCOEvaluator(dataset, distributed=False)
    evaluator.reset()
    for d in detections:
        masks = [torch.from_numpy(mask_util.decode(m)) for m in d.masks or ()]
        size = masks[0].shape if masks else (9, 9)
        instances = Instances(tuple(size))
        instances.pred_boxes, instances.scores = Boxes(torch.from_numpy(d.boxes)), torch.from_numpy(d.scores)
        instances.pred_classes = torch.from_numpy(d.classes)
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, 9, 9)
        evaluator.process([{"image_id": d.image_id}], [{"instances": instances}])
    theirs = evaluator.evaluate()
    for task in ("bbox", "segm"):
        ours: COCOResult = coco_average_precision(catalog.open_dataset(spec), detections, task)  # type: ignore[arg-type]
        want = theirs[task]
        assert [getattr(ours, k) for k in STATISTICS] == pytest.approx(
            [want[k] for k in STATISTICS], abs=1e-9, nan_ok=True
        )
        for name, ap in ours.per_class.items():
            assert ap == pytest.approx(want[f"AP-{name}"], abs=1e-9, nan_ok=True)
        assert 5 < ours.AP < 95
