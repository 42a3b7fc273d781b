"""An experiment on maps of classes: its table, its classes, and the images on which its rows disagree."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from pretrain.runtime import checkpoint
from tests.segmentors import DEMO
from tests.transfer.report import trees
from transfer.data import catalog
from transfer.data.label_maps import read_labels
from transfer.evaluation.miou import map_file
from transfer.report import evaluated
from transfer.report.collect import collect
from transfer.report.report import write_report
from transfer.report.sections import maps
from transfer.trials.aggregate import aggregate
from transfer.trials.run import AGGREGATE_FILE, trial_folder

SET = "generated_sem_seg_val"


@pytest.fixture
def dataset(generated):
    return catalog.open_dataset(*catalog.resolve([SET], [generated / "semantic.yaml"]))


@pytest.fixture
def plan(tmp_path, generated, dataset):
    """Two rows of two trials; the second finds everything but half of image 3, the first nothing but background."""
    opts = ["DATASETS.SPECS", f"('{generated}/semantic.yaml', '{generated}/voc.yaml')"]
    rows = [{"name": "random", "weights": None, "published": {"sem_seg/mIoU": 39.5}},
            {"name": "MoCo", "weights": {"pretrain": "moco"}}]  # fmt: skip
    file = trees.experiment_file(
        tmp_path, generated, trials=2, rows=rows, metrics=["sem_seg/mIoU"], transfer={"config": str(DEMO), "opts": opts}
    )
    plan = trees.plan(file)
    for i, row in enumerate(plan.experiment.rows):
        folder = plan.row_folder(plan.experiment.columns[0], row)
        results = []
        for k, seed in enumerate(plan.experiment.columns[0].seeds):
            values = {name: {"sem_seg/mIoU": 10.0 * n + 30 * i} for n, name in enumerate(dataset.classes)}
            values["striped_cross"]["sem_seg/mIoU"] = float("nan")
            results.append(trees.trial(
                plan, row, seed, 5, metrics={"sem_seg/mIoU": 40.0 + 20 * i + k, "sem_seg/pACC": 90.0},
                extra={SET: {"protocol": "miou", "per_class": values, "undefined": {}}},
            ))  # fmt: skip
            for n, record in enumerate(dataset.records):
                ids = read_labels(record["sem_seg_file_name"]) * np.uint8(i)
                ids = np.where(ids > 8, 0, ids).astype(np.uint8)
                if n == 3:
                    ids[: len(ids) // 2] = 0
                path = map_file(trial_folder(folder, seed), SET, n)
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(ids).save(path)
        checkpoint.save_json(aggregate(results).to_json(), folder / AGGREGATE_FILE)
    return plan


def test_the_page_has_a_table_classes_and_maps(plan, caplog):
    page = write_report(plan).read_text()
    assert "mIoU" in page and "40.5" in page and "60.5" in page and "39.5" in page
    for name in ('id="results"', 'id="classes"', 'id="gaps"', 'id="maps"', 'id="trials"'):
        assert name in page
    assert 'id="precision"' not in page and 'id="images"' not in page
    assert "predictions_" not in caplog.text  # nothing is missed that a semantic run does not keep
    assert not evaluated.read(plan, collect(plan).columns[0])


def test_the_images_on_which_rows_disagree_come_first(plan, dataset):
    section = maps.maps(plan, collect(plan).columns[0], count=2)
    assert section.count("<li><p") == 2 and section.count("<svg") == 2 * 3
    gains = []
    for n, record in enumerate(dataset.records):
        truth = read_labels(record["sem_seg_file_name"])
        objects = ((truth > 0) & (truth < 9))[len(truth) // 2 if n == 3 else 0 :]
        gains.append(objects.sum() / (truth < 9).sum())
    first, second = (dataset.records[int(n)]["image_id"] for n in np.argsort(gains)[:-3:-1])
    assert section.index(f"image {first} ") < section.index(f"image {second} ") and "MoCo 100.0%" in section


def test_a_map_of_another_size_does_not_keep_the_report_from_being_written(plan):
    Image.new("L", (3, 3)).save(map_file(folders(plan)[0], SET, 1))
    assert "Not shown: a kept map of image 1" in maps.maps(plan, collect(plan).columns[0])


def test_no_maps_no_section(plan):
    for folder in folders(plan):
        shutil.rmtree(folder / f"maps_{SET}")
    assert maps.maps(plan, collect(plan).columns[0]) is None


def folders(plan):
    (column,) = plan.experiment.columns
    return [trial_folder(plan.row_folder(column, r), seed) for r in plan.experiment.rows for seed in column.seeds]
