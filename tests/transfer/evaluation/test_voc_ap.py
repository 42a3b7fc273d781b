"""VOC AP: cases computed by hand, plain loops, and Detectron2's own evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.evaluation.reference import naive_ap, random_problem, run_detectron2
from transfer.evaluation.predictions import EvaluationError
from transfer.evaluation.voc_ap import THRESHOLDS, ImageDetections, _round, voc_average_precision


def record(image_id: str, *objects: tuple[list[float], int, int]) -> dict[str, Any]:
    """An image with (box, class, difficult) objects."""
    annotations = [{"bbox": b, "category_id": c, "difficult": d} for b, c, d in objects]
    return {"image_id": image_id, "height": 100, "width": 100, "annotations": annotations}


def found(image_id: str, *rows: tuple[list[float], float, int]) -> ImageDetections:
    """Detections (box, score, class) of an image."""
    boxes = np.array([r[0] for r in rows], np.float32).reshape(-1, 4)
    return ImageDetections(
        image_id, boxes, np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], int)
    )


BOX, OTHER, FAR = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 80.0, 90.0], [0.0, 60.0, 9.0, 70.0]


@pytest.mark.parametrize("year", [2007, 2012])
def test_all_found_is_100_and_nothing_found_is_0(year: int) -> None:
    records = [record("a", (BOX, 0, 0)), record("b", (OTHER, 0, 0))]
    perfect = voc_average_precision(records, [found("a", (BOX, 0.9, 0)), found("b", (OTHER, 0.8, 0))], ["x"], year)
    assert (perfect.AP, perfect.AP50, perfect.AP75) == pytest.approx((100, 100, 100))
    assert voc_average_precision(records, [], ["x"], year).AP == 0
    assert voc_average_precision(records, [found("a"), found("b")], ["x"], year).AP == 0


def test_half_found_by_hand() -> None:
    """Two objects; hit, miss, hit in order of score: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    records = [record("a", (BOX, 0, 0), (OTHER, 0, 0))]
    detections = [found("a", (BOX, 0.9, 0), (FAR, 0.8, 0), (OTHER, 0.7, 0))]
    area = voc_average_precision(records, detections, ["x"], 2012)
    assert area.AP50 == pytest.approx(100 * (0.5 * 1 + 0.5 * 2 / 3))
    points = voc_average_precision(records, detections, ["x"], 2007)
    assert points.AP50 == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)
    recall, precision = points.curves["x"]
    assert recall.tolist() == [0.5, 0.5, 1] and precision == pytest.approx([1, 1 / 2, 2 / 3])


def test_difficult_objects_neither_count_nor_punish() -> None:
    records = [record("a", (BOX, 0, 1), (OTHER, 0, 0))]
    result = voc_average_precision(records, [found("a", (BOX, 0.9, 0), (OTHER, 0.8, 0))], ["x"], 2012)
    assert result.AP50 == 100 and result.n_objects == {"x": 1}


def test_a_second_detection_of_an_object_is_wrong_even_if_another_object_overlaps_too() -> None:
    """The second looks at its best object only, which is taken; it may not fall back to the neighbour."""
    neighbour = [12.0, 10.0, 32.0, 30.0]
    records = [record("a", (BOX, 0, 0), (neighbour, 0, 0))]
    result = voc_average_precision(records, [found("a", (BOX, 0.9, 0), (BOX, 0.8, 0))], ["x"], 2012)
    assert result.AP50 == pytest.approx(50)


def test_equal_overlaps_take_the_first_object() -> None:
    records = [record("a", (BOX, 0, 1), (BOX, 0, 0))]  # the first is difficult: the detection is ignored
    assert voc_average_precision(records, [found("a", (BOX, 0.9, 0))], ["x"], 2012).AP50 == 0


def test_the_threshold_itself_is_no_hit() -> None:
    """In 1-based pixels both ends included, 10 x 10 against its 10 x 5 half: IoU exactly 1/2."""
    records = [record("a", ([0.0, 0.0, 10.0, 10.0], 0, 0))]
    assert voc_average_precision(records, [found("a", ([0, 0, 10, 5], 0.9, 0))], ["x"], 2012).AP50 == 0
    assert voc_average_precision(records, [found("a", ([0, 0, 10, 5.1], 0.9, 0))], ["x"], 2012).AP50 == 100


def test_rounding_makes_ties_and_can_be_left_out() -> None:
    """Scores .9004 (wrong) and .9001 (right) are both .900 in the text: their order is then that of the input."""
    records = [record("a", (BOX, 0, 0))]
    detections = [found("a", (BOX, 0.9001, 0), (FAR, 0.9004, 0))]
    assert voc_average_precision(records, detections, ["x"], 2012).AP50 == 100
    assert voc_average_precision(records, detections, ["x"], 2012, rounded=False).AP50 == pytest.approx(50)


def test_nothing_is_rounded_where_annotations_have_decimals() -> None:
    """Detectron2 cannot read them; rounded, a small object would be missed by a perfect detection."""
    for box in ([0.0, 0.0, 10.4, 10.0], [3.27, 3.31, 4.52, 4.49]):
        records = [record("a", (box, 0, 0))]
        exact, half = [found("a", (box, 0.9, 0))], [found("a", ([0, 0, 10, 5.1], 0.9, 0))]
        assert voc_average_precision(records, exact, ["x"], 2007).AP == pytest.approx(100)
        assert voc_average_precision(records, half, ["x"], 2012).AP50 == 0  # rounded it would be 51 of 100


@pytest.mark.parametrize("year", [2007, 2012])
def test_a_class_without_objects_has_ap_0(year: int) -> None:
    records = [record("a", (BOX, 0, 0), (OTHER, 2, 1))]
    detections = [found("a", (BOX, 0.9, 0), (OTHER, 0.9, 1), (OTHER, 0.9, 2))]
    result = voc_average_precision(records, detections, ["x", "unseen", "difficult_only"], year)
    assert result.AP50 == pytest.approx(100 / 3)
    assert result.per_class["unseen"]["AP"] == result.per_class["difficult_only"]["AP"] == 0


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed: int, year: int, rounded: bool) -> None:
    names = ["a", "b", "c", "d"]
    records, detections = random_problem(seed, unseen=(2,) if seed else ())
    result = voc_average_precision(records, detections, names, year, rounded)
    table = [[naive_ap(records, detections, c, t, year, rounded) for t in THRESHOLDS] for c in range(4)]
    assert result.AP == pytest.approx(np.mean(table), abs=1e-9)
    for c, name in enumerate(names):
        want = {"AP": np.mean(table[c]), "AP50": table[c][0], "AP75": table[c][5]}
        assert result.per_class[name] == pytest.approx(want, abs=1e-9)
    assert result.AP > 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_equals_the_text_on_ties_and_beside_them(dtype: type) -> None:
    rng = np.random.default_rng(0)
    ties = np.arange(-2000, 2000) / 80  # eighths: every other one of them is a tie at one digit
    x = np.concatenate([ties, ties + 0.05, np.nextafter(ties + 0.05, 99), rng.uniform(-9, 999, 4000)]).astype(dtype)
    x = x.astype(np.float64)
    for digits in (1, 3):
        assert _round(x, digits).tolist() == [float(f"{v:.{digits}f}") for v in x.tolist()]
    assert _round(x.reshape(-1, 4), 1).ravel().tolist() == _round(x, 1).tolist()


def test_bad_input_is_named() -> None:
    records = [record("a", (BOX, 0, 0))]
    with pytest.raises(EvaluationError, match="'b', which the dataset lacks; it has e.g. 'a'"):
        voc_average_precision(records, [found("b")], ["x"], 2007)
    with pytest.raises(EvaluationError, match="two sets of detections for image 'a'"):
        voc_average_precision(records, [found("a"), found("a")], ["x"], 2007)
    with pytest.raises(EvaluationError, match="class 1 is out of range; the dataset has 1"):
        voc_average_precision(records, [found("a", (BOX, 0.5, 1))], ["x"], 2007)
    with pytest.raises(EvaluationError, match="year is 2010"):
        voc_average_precision(records, [], ["x"], 2010)
    with pytest.raises(EvaluationError, match="stands twice"):
        voc_average_precision(records * 2, [], ["x"], 2007)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        found("a", ([0, 0, np.nan, 1], 0.5, 0))
    with pytest.raises(EvaluationError, match="expected"):
        ImageDetections("a", np.zeros((2, 4)), np.zeros(1), np.zeros(1, int))


@pytest.mark.d2
@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(4))
def test_equals_detectron2(tmp_path: Path, seed: int, year: int) -> None:
    """Ties, difficult objects, images without objects or detections, and in 2007 a class without objects."""
    pytest.importorskip("detectron2")
    names = ["a", "b", "c", "d", "e"]
    records, detections = random_problem(
        seed, n_images=60, n_classes=5, unseen=(1,) if year == 2007 else (), ties=seed % 2 == 0
    )
    theirs, _ = run_detectron2(tmp_path, records, detections, names, year)
    ours = voc_average_precision(records, detections, names, year)
    assert ours.AP > 5
    assert [ours.AP, ours.AP50, ours.AP75] == pytest.approx([theirs["AP"], theirs["AP50"], theirs["AP75"]], abs=1e-9)
