"""Numbers recorded before data sets, protocols and evaluators became types of their own: they must stay what they were.

Detections scattered around the generated scenes' annotations, scored through the same doors as a run's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer.data import catalog
from transfer.evaluation.predictions import ImageDetections
from transfer.tasks.instances import INSTANCES

RECORDED = {
    "generated_trainval": {
        "bbox/AP": 63.67257964226724,
        "bbox/AP50": 80.40306915306915,
        "bbox/AP75": 60.336633063905786,
        "bbox_unrounded/AP": 63.4158780105656,
        "bbox_unrounded/AP50": 80.40306915306915,
        "bbox_unrounded/AP75": 57.08779856507129,
    },
    "generated_test": {
        "bbox/AP": 65.21834415584418,
        "bbox/AP50": 87.50000000000003,
        "bbox/AP75": 63.74098124098125,
        "bbox_unrounded/AP": 65.21834415584418,
        "bbox_unrounded/AP50": 87.50000000000003,
        "bbox_unrounded/AP75": 63.74098124098125,
    },
    "generated_coco_train": {
        "bbox/AP": 63.26679607858253,
        "bbox/AP50": 80.6116585216214,
        "bbox/AP75": 58.02390709942035,
        "segm/AP": 8.676553013209668,
        "segm/AP50": 30.888655284403683,
        "segm/AP75": 5.3041018387553045,
    },
    "generated_coco_val": {
        "bbox/AP": 66.81503418198962,
        "bbox/AP50": 89.27392739273927,
        "bbox/AP75": 63.90205091937765,
        "segm/AP": 10.901196369636963,
        "segm/AP50": 55.123762376237615,
        "segm/AP75": 0.0,
    },
}


def scattered(dataset: catalog.Dataset, masks: bool) -> list[ImageDetections]:
    """Three detections per object, ever further from it; some of another class, scores at random with ties."""
    rng = np.random.default_rng(0)
    found = []
    for record in dataset.records:
        size, boxes, scores, classes, rles = (record["height"], record["width"]), [], [], [], []
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            for k in range(3):
                moved = [v + rng.normal(0, 0.08 * k) * s for v, s in zip((x0, y0, x1, y1), (x1 - x0, y1 - y0) * 2)]  # noqa: B905
                x, y = sorted(moved[::2]), sorted(moved[1::2])
                boxes.append([x[0], y[0], x[1], y[1]])
                classes.append(annotation["category_id"] if rng.random() < 0.85 else int(rng.integers(8)))
                scores.append(round(float(rng.random()), 2))
                pixels = np.zeros(size, np.uint8, order="F")
                left, top, right, bottom = (max(int(v), 0) for v in boxes[-1])
                pixels[top : bottom + 1, left : right + 1] = 1
                rles.append(mask_util.encode(pixels))
        arrays = np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, np.int64)
        found.append(ImageDetections(record["image_id"], *arrays, rles if masks else None))
    return found


@pytest.mark.parametrize("name", ["generated_trainval", "generated_test", "generated_coco_train", "generated_coco_val"])
def test_numbers_are_what_they_were(name: str, generated: Path) -> None:
    layout = "coco" if "coco" in name else "voc"
    dataset = catalog.open_dataset(*catalog.resolve([name], [generated / f"{layout}.yaml"]))
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset, masks=layout == "coco")
    evaluator.merge([scattered(dataset, layout == "coco")])
    scores = evaluator.scores()
    assert {key: scores.metrics[key] for key in RECORDED[name]} == pytest.approx(RECORDED[name], abs=1e-12)
