"""LVIS and Cityscapes through whole runs at the smallest size, on both engines; the same samples, the same metric."""

from __future__ import annotations

import json

import pytest

from tests.architectures import ARCHITECTURES, options
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.select import select
from transfer.evaluation.predictions import load_coco_json
from transfer.tasks import task_of

ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)]
SETS = {
    "lvis": ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.5",
             "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0001", "TEST.DETECTIONS_PER_IMAGE", "300"],
    "cityscapes": ["INPUT.MASK_FORMAT", "bitmask"],
}  # fmt: skip


def config(name, generated, folder, engine):
    train, test = (f"generated_{name}_{split}" for split in ("train", "val"))
    words = [
        *options("R18-FPN-mask", generated, folder), "DATASETS.SPECS", f"('{generated}/{name}.yaml',)",
        "DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{test}',)", "SOLVER.MAX_ITER", "3", *SETS[name],
        "SOLVER.STEPS", "()",
    ]  # fmt: skip
    return load_config(ARCHITECTURES["R18-FPN-mask"][0], words, select(engine).defaults())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SETS)
def test_trained_scored_and_scored_again_from_its_file(name, engine, generated, tmp_path):
    cfg = config(name, generated, tmp_path, engine)
    result = select(engine).train(cfg)
    assert result.iterations == 3 and result.extra[cfg.DATASETS.TEST[0]]["protocol"] == name
    (spec,) = catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)
    dataset = catalog.open_dataset(spec)
    evaluator = task_of(cfg).evaluator(cfg, dataset)
    for found in load_coco_json(tmp_path / "run" / f"predictions_{spec.name}.json", dataset.category_ids):
        evaluator.add(found)
    again = evaluator.scores().metrics
    assert again.keys() == result.metrics.keys() and "segm/AP" in again
    assert json.dumps(again) == json.dumps({key: result.metrics[key] for key in again})


@pytest.mark.parametrize("engine", ENGINES)
def test_rare_images_come_first_on_both_engines_alike(engine, generated, tmp_path):
    """The order is a function of the seed: the other engine's test sees these very files."""
    cfg = config("lvis", generated, tmp_path, engine)
    seen = [x.file_name.rpartition("/")[2] for x in select("torchvision").training_inputs(cfg, 12)]
    assert len(set(seen)) < len(seen)  # some image comes again before all have come
    assert len(list(select(engine).training_inputs(cfg, 3))) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_cityscapes_without_masks_cannot_be_scored(engine, generated, tmp_path):
    cfg = config("cityscapes", generated, tmp_path, engine)
    cfg.defrost()
    cfg.MODEL.MASK_ON = False
    cfg.freeze()
    with pytest.raises(ValueError, match="is scored by masks alone .* set MODEL.MASK_ON True"):
        select(engine).train(cfg)
    assert not (tmp_path / "run" / "result.json").exists()
