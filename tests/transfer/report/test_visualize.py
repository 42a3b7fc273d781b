"""Pictures of data and of runs: what is drawn is what is there, and mistakes end in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import segmentors
from tests.architectures import ARCHITECTURES, options
from tests.conftest import ROOT
from tests.processes import run_tool
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.select import select
from transfer.evaluation.miou import map_file
from transfer.evaluation.predictions import ImageDetections, save_coco_json
from transfer.report import visualize
from transfer.report.pictures import Objects, colour, draw, from_the_left, sheet

NAMES = [f"class{i}" for i in range(8)]


def test_a_box_is_drawn_where_it_is_and_a_mask_where_it_covers():
    image = np.full((40, 80, 3), 100, np.uint8)
    mask = np.zeros((1, 40, 80), bool)
    mask[0, 20:30, 40:60] = True
    objects = Objects(np.array([[40.0, 20.0, 60.0, 30.0]]), np.array([2]), np.array([0.9]), mask)
    picture = np.asarray(draw(image, objects, NAMES, long_edge=160))
    assert picture.shape == (80, 160, 3)
    assert (picture[50, 80:120] == colour(2)).all(axis=1)[0] and tuple(picture[40, 100]) == colour(2)  # left, top edge
    inside, outside = picture[50, 100], picture[70, 20]
    assert tuple(outside) == (100, 100, 100) and not np.array_equal(inside, outside)
    assert np.allclose(inside, 0.55 * 100 + 0.45 * np.array(colour(2)), atol=2)


@pytest.mark.parametrize("shape", [(1, 3000, 3), (3000, 1, 3)])
def test_the_thinnest_image_has_a_picture(shape: tuple[int, int, int]):
    picture = draw(np.zeros(shape, np.uint8), Objects(np.zeros((0, 4)), np.zeros(0, int)), NAMES)
    assert sorted(picture.size) == [1, 640]


def test_ground_truth_is_dashed_and_a_sheet_has_a_place_for_every_picture():
    image = np.zeros((50, 50, 3), np.uint8)
    truth = draw(image, Objects(np.array([[10.0, 20.0, 40.0, 40.0]]), np.array([0])), NAMES, long_edge=100)
    edge = np.asarray(truth)[80, 20:80]  # the lower edge
    inked = (edge == colour(0)).all(axis=1)
    assert inked.any() and not inked.all()
    page = sheet([[truth, truth], [truth]], ["a", "b"], gap=8)
    assert page.size == (2 * 100 + 3 * 8, 28 + 2 * 100 + 3 * 8)


@pytest.mark.parametrize("name", ["R18-C4", "R18-FPN-mask", "R18-FPN-keypoint"])
@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)])
def test_training_inputs_of_both_engines(name, engine, generated, tmp_path):
    chosen = select(engine)
    cfg = load_config(ARCHITECTURES[name][0], options(name, generated, tmp_path), chosen.defaults())
    inputs = list(chosen.training_inputs(cfg, 5))
    assert len({x.file_name for x in inputs}) == 5
    for x in inputs:
        h, w = x.image.shape[:2]
        assert x.image.dtype == np.uint8 and min(h, w) in (64, 80) and (x.masks is not None) == ("mask" in name)
        assert len(x.boxes) == len(x.labels) > 0 and (x.boxes[:, 2:] <= (w, h)).all()
        for box, mask in zip(x.boxes, x.masks if x.masks is not None else [], strict=False):
            ys, xs = np.nonzero(mask)
            assert xs.min() > box[0] - 2 and ys.min() > box[1] - 2 and xs.max() < box[2] + 1 and ys.max() < box[3] + 1
            assert np.ptp(xs) * np.ptp(ys) > 0.5 * (box[2] - box[0]) * (box[3] - box[1])
    again = list(chosen.training_inputs(cfg, 5))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(inputs, again, strict=True))
    (spec,) = catalog.resolve(cfg.DATASETS.TRAIN, cfg.DATASETS.SPECS)
    visualize.training_inputs(inputs, spec, tmp_path / "inputs.png")
    with Image.open(tmp_path / "inputs.png") as picture:
        assert picture.width > 4 * 600


def test_points_are_dots_and_lines_and_unlabelled_ones_nothing():
    image = np.zeros((100, 100, 3), np.uint8)
    points = np.array([[[20.0, 60.0, 2.0], [80.0, 60.0, 1.0], [50.0, 90.0, 0.0]]])
    objects = Objects(np.array([[5.0, 2.0, 95.0, 95.0]]), np.array([0]), None, None, points, ((0, 1), (0, 2)))
    picture = np.asarray(draw(image, objects, NAMES, long_edge=200))
    assert tuple(picture[120, 40]) == tuple(picture[120, 100]) == colour(0)  # the seen point, and the line
    assert tuple(picture[120, 160]) == (0, 0, 0) and tuple(picture[120, 163]) == colour(0)  # the hidden one is hollow
    assert not picture[130:186, 20:180].any()  # no line to the point that is not labelled


@pytest.mark.parametrize("name", [pytest.param("R18-C4", marks=pytest.mark.slow), "R18-FPN-mask", "R18-FPN-keypoint"])
def test_a_run_is_drawn(name, generated, tmp_path):
    """Detections that are the truth: the curves are 1 throughout, and every set has its two pictures."""
    cfg = load_config(ARCHITECTURES[name][0], options(name, generated, tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    (spec,) = visualize.evaluated_sets(cfg)
    found = []
    for record in catalog.load(spec):
        boxes = np.array([a["bbox"] for a in record["annotations"]], np.float32).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in record["annotations"]], int)
        points = np.array([a.get("keypoints", []) for a in record["annotations"]]).reshape(len(boxes), -1, 3)
        points = points if "keypoint" in name else None
        scores = np.ones(len(boxes), np.float32)
        found.append(ImageDetections(record["image_id"], boxes, scores, classes, None, points))
    save_coco_json(run / f"predictions_{spec.name}.json", found, catalog.category_ids(spec))
    done = run_tool(ROOT / "tools" / "visualize.py", "run", run, "--count", "2")
    assert done.returncode == 0, done.stderr
    names = [f"detections_{spec.name}.png", f"precision_recall_{spec.name}.png"]
    assert done.stdout.split() == [str(run / n) for n in names]
    for n in names:
        with Image.open(run / n) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    visualize.ground_truth(spec, 3, tmp_path / "truth.png")
    assert (tmp_path / "truth.png").stat().st_size > 1000


def test_a_curve_begins_at_the_left_edge():
    """One object of two is found first: the area is AP's, 0.5 x 1, and not that from a recall of 0.5 on."""
    recall, precision = from_the_left(np.array([0.5, 0.5]), np.array([1.0, 0.5]))
    assert float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum()) == 0.5
    nothing = np.array([])
    assert all(len(values) == 0 for values in from_the_left(nothing, nothing))


def test_mistakes_end_in_one_line(generated, tmp_path: Path, small_config, small_opts):
    tool = [ROOT / "tools" / "visualize.py"]
    (tmp_path / "config.yaml").write_text(load_config(small_config, small_opts).dump())
    done = run_tool(*tool, "run", tmp_path)
    assert done.returncode == 2 and "no predictions_generated_test.json" in done.stderr
    done = run_tool(*tool, "run", tmp_path / "absent")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr and not (tmp_path / "absent").exists()


def test_a_map_is_tinted_by_class_and_untouched_where_it_is_ignored():
    image = np.full((40, 80, 3), 100, np.uint8)
    ids = np.full((40, 80), 255, np.uint8)
    ids[:, 40:] = 3
    picture = np.asarray(draw(image, Objects.of_map(ids), NAMES, long_edge=80))
    assert tuple(picture[20, 10]) == (100, 100, 100)
    assert np.allclose(picture[2, 60], 0.45 * 100 + 0.55 * np.array(colour(3)), atol=2)
    assert not np.array_equal(picture[20, 60], picture[2, 60])  # the class's name


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)])
def test_training_inputs_with_maps(engine, generated, tmp_path):
    chosen = select(engine)
    cfg = load_config(segmentors.DEMO, segmentors.options(generated, tmp_path), chosen.defaults())
    inputs = list(chosen.training_inputs(cfg, 5))
    assert all(x.image.shape == (49, 65, 3) and x.classes.shape == (49, 65) and not len(x.boxes) for x in inputs)
    assert len({x.file_name for x in inputs}) == 5
    again = list(chosen.training_inputs(cfg, 5))
    assert all(np.array_equal(a.classes, b.classes) for a, b in zip(inputs, again, strict=True))
    (spec,) = catalog.resolve(cfg.DATASETS.TRAIN, cfg.DATASETS.SPECS)
    visualize.training_inputs(inputs, spec, tmp_path / "inputs.png")
    assert (tmp_path / "inputs.png").stat().st_size > 1000


def test_the_maps_of_a_run_are_drawn(generated, tmp_path):
    """Predicted maps that are the annotated ones: both columns of the sheet are the same."""
    cfg = load_config(segmentors.DEMO, segmentors.options(generated, tmp_path))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (spec,) = visualize.evaluated_sets(cfg)
    tool = [ROOT / "tools" / "visualize.py", "run", tmp_path, "--count", "2"]
    done = run_tool(*tool)
    assert done.returncode == 2 and f"has no maps_{spec.name}/" in done.stderr and "Traceback" not in done.stderr
    for i, record in enumerate(catalog.load(spec)):
        path = map_file(tmp_path, spec.name, i)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Path(record["sem_seg_file_name"]).read_bytes())
    done = run_tool(*tool)
    assert done.returncode == 0, done.stderr
    (written,) = done.stdout.split()
    with Image.open(written) as picture:
        left = np.asarray(picture)[40:, 8 : 8 + (picture.width - 24) // 2]
        right = np.asarray(picture)[40:, 16 + (picture.width - 24) // 2 :]
    assert np.array_equal(left, right[:, : left.shape[1]]) and len(np.unique(left.reshape(-1, 3), axis=0)) > 20
    visualize.ground_truth(spec, 3, tmp_path / "truth.png")
    assert (tmp_path / "truth.png").stat().st_size > 1000
