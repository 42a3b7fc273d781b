"""Prediction files: what is read back evaluates to the same number."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.transfer.evaluation.reference import random_problem
from transfer.evaluation.predictions import (
    EvaluationError,
    ImageDetections,
    load_coco_json,
    load_voc_text,
    save_coco_json,
    save_voc_text,
)
from transfer.evaluation.voc_ap import voc_average_precision

NAMES = ["a", "b", "c", "d"]


def test_coco_json_keeps_every_bit(tmp_path: Path) -> None:
    records, detections = random_problem(0)
    save_coco_json(tmp_path / "p.json", detections, [3, 5, 8, 13])
    back = load_coco_json(tmp_path / "p.json", [3, 5, 8, 13])
    for a, b in zip((d for d in detections if len(d.scores)), back, strict=True):
        assert a.image_id == b.image_id and (a.boxes == b.boxes).all() and b.boxes.dtype == np.float32
        assert (a.scores == b.scores).all() and (a.classes == b.classes).all()
    ours = [voc_average_precision(records, d, NAMES, 2007) for d in (detections, back)]
    assert ours[0].AP == ours[1].AP and ours[0].per_class == ours[1].per_class
    line = json.loads((tmp_path / "p.json").read_text())[0]
    assert set(line) == {"image_id", "category_id", "bbox", "score"} and line["category_id"] in (3, 5, 8, 13)


def test_voc_text_evaluates_to_the_same_rounded_ap(tmp_path: Path) -> None:
    """Without ties: the text orders equal scores by class and line, not by image."""
    records, detections = random_problem(1, ties=False)
    save_voc_text(tmp_path, detections, NAMES)
    lines = (tmp_path / "comp4_det_a.txt").read_text().splitlines()
    assert all(len(line.split()) == 6 for line in lines)
    back = load_voc_text(tmp_path, NAMES)
    want = voc_average_precision(records, detections, NAMES, 2012)
    assert voc_average_precision(records, back, NAMES, 2012).AP == pytest.approx(want.AP, abs=1e-9)


def test_voc_text_counts_from_one(tmp_path: Path) -> None:
    boxes = np.array([[0, 1, 9.96, 20]], np.float32)
    save_voc_text(tmp_path, [ImageDetections("img", boxes, np.array([0.12345]), np.array([1]))], ["a", "b"])
    assert (tmp_path / "comp4_det_b.txt").read_text() == "img 0.123 1.0 2.0 10.0 20.0\n"
    assert (tmp_path / "comp4_det_a.txt").read_text() == ""


def test_masks_travel(tmp_path: Path) -> None:
    rle = {"size": [2, 2], "counts": b"04"}
    found = ImageDetections(7, np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, int), [rle])
    save_coco_json(tmp_path / "p.json", [found], [1])
    [back] = load_coco_json(tmp_path / "p.json", [1])
    assert back.masks == [{"size": [2, 2], "counts": "04"}]


def test_faulty_files_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(EvaluationError, match="do not exist"):
        load_coco_json(path, [1])
    path.write_text("[{]")
    with pytest.raises(EvaluationError, match="is no json"):
        load_coco_json(path, [1])
    path.write_text('[{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}]')
    with pytest.raises(EvaluationError, match="category_id 2 is not among"):
        load_coco_json(path, [1])
    path.write_text('[{"image_id": 1, "category_id": 1, "score": 1}]')
    with pytest.raises(EvaluationError, match="detection 0: 'bbox' is missing"):
        load_coco_json(path, [1])
    for change, message in (
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\] is not"),
        ({"bbox": [1, 2, 3, math.nan]}, "is not"),
        ({"score": "high"}, "score 'high' is no finite number"),
        ({"image_id": None}, "image_id None is no number and no string"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9]]}, "is no compressed RLE"),
        ({"segmentation": {"size": [4, 4], "counts": "zz"}}, "cannot be decoded"),
        ({"segmentation": {"size": [4, 4], "counts": "04"}}, "cover 4 pixels instead of 16"),
    ):
        path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1} | change]))
        with pytest.raises(EvaluationError, match=f"detection 0: .*{message}"):
            load_coco_json(path, [1])
    one = '{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1'
    for text, message in (
        (f'[{one}, "score": 2}}]', "key 'score' stands twice"),
        (f'[{one}, "segmentation": {{"size": [1, 1], "counts": "01"}}}}, {one}}}]', "some detections have masks"),
        (f"[{one.replace('1,', 'true,', 2)}}}]", "is no number"),
    ):
        path.write_text(text)
        with pytest.raises(EvaluationError, match=message):
            load_coco_json(path, [1])
    for text in ("{}", "[1]"):
        path.write_text(text)
        with pytest.raises(EvaluationError, match="not a list of detections|1 is no object"):
            load_coco_json(path, [1])
    with pytest.raises(EvaluationError, match="comp4_det_a.txt' does not exist"):
        load_voc_text(tmp_path, ["a"])
    (tmp_path / "comp4_det_a.txt").write_text("img 0.5 1 2 3\n")
    with pytest.raises(EvaluationError, match="line 1: expected 'id score"):
        load_voc_text(tmp_path, ["a"])


def test_voc_text_as_people_have_it(tmp_path: Path) -> None:
    """Blank lines, a mark at the beginning, ids with spaces; what is not UTF-8 is one sentence."""
    file = tmp_path / "comp4_det_a.txt"
    file.write_bytes("\ufeffphoto 1 0.5 1 2 3 4\n\n  x 0.25 5 6 7 8 \n".encode())
    assert [(d.image_id, d.scores.tolist()) for d in load_voc_text(tmp_path, ["a"])] == [
        ("photo 1", [0.5]),
        ("x", [0.25]),
    ]
    file.write_bytes(b"\xff 0.5 1 2 3 4\n")
    with pytest.raises(EvaluationError, match="not in UTF-8"):
        load_voc_text(tmp_path, ["a"])
