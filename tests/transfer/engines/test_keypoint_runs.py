"""Whole runs of the keypoint task at the smallest size, on both engines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.architectures import ARCHITECTURES, options
from transfer.config.load import load_config
from transfer.convert.read import read_weights
from transfer.engines.base import EngineError
from transfer.engines.select import select

CONFIG = ARCHITECTURES["R18-FPN-keypoint"][0]
ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)]


class Killed(BaseException):
    """As no handler of an exception sees it."""


def dying_in_step(count: int):
    """The optimizer's step, which ends the process, as it were, when it is called for the `count`-th time."""
    step, calls = torch.optim.SGD.step, iter(range(1, count + 1))

    def dying(*args, **kwargs):
        if next(calls) == count:
            raise Killed
        return step(*args, **kwargs)

    return dying


@pytest.mark.parametrize("name", ENGINES)
def test_trained_killed_resumed_and_evaluated(name, generated, tmp_path, monkeypatch):
    engine, out = select(name), tmp_path / "run"
    words = [*options("R18-FPN-keypoint", generated, tmp_path), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]

    def cfg(*more: str):
        return load_config(CONFIG, [*words, *more], engine.defaults())

    result = engine.train(cfg())
    assert result.iterations == 6 and result.extra["generated_keypoints_val"]["protocol"] == "coco_keypoints"
    assert {"keypoints/AP", "keypoints/AP50", "keypoints/APm", "bbox/AP"} <= set(result.metrics)
    (line,) = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[-2:-1])
    assert line["loss_keypoint"] > 0
    found = json.loads((out / "predictions_generated_keypoints_val.json").read_text())
    assert found and all(len(d["keypoints"]) == 15 for d in found)
    whole = read_weights(out / "model_final.pth")
    assert "roi_heads.keypoint_head.score_lowres.weight" in whole

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.optim.SGD, "step", dying_in_step(5))
        engine.train(cfg("OUTPUT_DIR", str(killed)))
    assert not (killed / "model_final.pth").exists()
    assert engine.train(cfg("OUTPUT_DIR", str(killed)), resume="must").iterations == 6
    if name == "torchvision":  # Detectron2 draws other images after a resume
        resumed = read_weights(killed / "model_final.pth")
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)

    evaluated = engine.evaluate(
        cfg("MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "evaluated"))
    )
    assert evaluated.metrics == pytest.approx(result.metrics, nan_ok=True)

    kept = {file: (out / file).read_bytes() for file in ("config.yaml", "result.json")}
    with pytest.raises(EngineError, match="run' holds a training, .*OUTPUT_DIR .*/run/evaluated"):
        engine.evaluate(cfg("MODEL.WEIGHTS", str(out / "model_final.pth")))
    assert {file: (out / file).read_bytes() for file in kept} == kept


@pytest.mark.parametrize("name", ENGINES)
def test_training_inputs_have_points_in_their_boxes(name, generated, tmp_path):
    engine = select(name)
    cfg = load_config(CONFIG, options("R18-FPN-keypoint", generated, tmp_path), engine.defaults())
    for x in engine.training_inputs(cfg, 4):
        assert x.keypoints is not None and x.keypoints.shape == (len(x.boxes), 5, 3)
        labelled = x.keypoints[..., 2] > 0
        assert labelled.any() and not x.keypoints[~labelled].any()
        seen = (x.keypoints[..., 2] == 2) & labelled
        for points, mask, (x0, y0, x1, y1) in zip(x.keypoints, seen, x.boxes, strict=True):
            assert ((points[mask, :2] >= [x0 - 1, y0 - 1]) & (points[mask, :2] <= [x1 + 1, y1 + 1])).all()
        left, right = x.keypoints[:, 1], x.keypoints[:, 2]  # also where the picture is mirrored
        both = (left[:, 2] > 0) & (right[:, 2] > 0)
        assert (left[both, 0] < right[both, 0]).all() and np.isfinite(x.keypoints).all()
