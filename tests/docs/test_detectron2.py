"""The script of docs/detectron2.md, run as it stands on a small set; what the page says of exporting."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.architectures import ARCHITECTURES, options
from tests.conftest import ROOT
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.config.load import load_config
from transfer.convert.convert import convert

pytestmark = pytest.mark.d2


def test_the_script_trains_and_predicts_in_stock_detectron2(
    generated: Path, small_opts: list[str], small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.engines.d2.engine import Detectron2Engine

    page = (ROOT / "docs" / "detectron2.md").read_text()
    (script,) = re.findall(r"```python\n(# train_stock.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "train_stock.py").write_text(script)
    torch.save(moco(trunk(18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "trunk.pkl")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "trunk.pkl")]
    words = [*small_opts, *weights, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.BASE_LR", "0.0",
             "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]  # fmt: skip
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_stock.py", *words])
    left = runpy.run_path("train_stock.py")

    found = left["found"]
    assert len(found) > 0 and set(found.pred_classes.tolist()) <= set(range(8))
    arrived = left["trainer"].model.backbone.res2[0].conv1.weight
    assert torch.equal(arrived, trunk(18)["layer1.0.conv1.weight"])  # a rate of 0 has left them as they came
    engine = Detectron2Engine()
    final = ["MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "scored")]
    scored = engine.evaluate(load_config(small_config, [*small_opts, *final], engine.defaults()))
    assert "bbox/AP50" in scored.metrics


def _built(name: str) -> Any:
    """A network with random weights, as the page says to build it for an export."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from transfer.engines.d2 import register

    config, opts = ARCHITECTURES[name]
    cfg = get_cfg()
    register.add(cfg)
    cfg.merge_from_file(str(config))
    cfg.merge_from_list([*options(name, Path("none"), Path("none")), *opts])
    cfg.merge_from_list(["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"])
    torch.manual_seed(0)
    return build_model(cfg).eval()


def _image(width: int, height: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, height, width)).astype("float32"))


@pytest.mark.filterwarnings("ignore")  # of tracing, by the dozen
@pytest.mark.parametrize("name", ["R18-C4", "R18-FPN-mask"])
def test_tracing_gives_the_same_outputs(name: str) -> None:
    from detectron2.export import TracingAdapter

    def inference(model, inputs):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    image = _image(128, 96)
    model = TracingAdapter(_built(name), [{"image": image}], inference)
    with torch.no_grad():
        traced = torch.jit.trace(model, (image,), check_trace=False)
        for other in (image, _image(90, 70)):
            for expected, given in zip(model(other), traced(other), strict=True):
                torch.testing.assert_close(given, expected)


@pytest.mark.filterwarnings("ignore")
def test_scripting_gives_the_same_outputs() -> None:
    from detectron2.export import scripting_with_instances
    from detectron2.structures import Boxes

    model, tensors = _built("R18-FPN-mask"), ("objectness_logits", "scores", "pred_classes", "pred_masks")
    fields = {"proposal_boxes": Boxes, "pred_boxes": Boxes, **dict.fromkeys(tensors, torch.Tensor)}
    scripted = scripting_with_instances(model, fields)
    with torch.no_grad():
        inputs = [{"image": _image(128, 96)}]
        (expected,), (given,) = (m.inference(inputs, do_postprocess=False) for m in (model, scripted))
    assert len(expected) > 0
    torch.testing.assert_close(given.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(given.pred_masks, expected.pred_masks)
