"""A run's network as a file for serving: what the command writes and says, and the script of docs/serving.md."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image

from pretrain.runtime.commands import status
from pretrain.runtime.result import RunResult
from tests import networks
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from transfer.engines.tv.serving.proof import made_up

NAMES = [f"thing {i}" for i in range(8)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, which knows what its classes are called."""
    folder = tmp_path_factory.mktemp("run")
    weights = networks.save(networks.config("R18-FPN-mask", folder))
    RunResult("train", "torchvision", seed=0, config_digest="", extra={"classes": NAMES}).save(weights.parent)
    return weights.parent


def export(run: Path, *words: object) -> int:
    return status(tool("export").main, [str(word) for word in ("--weights", run / "model_final.pth", *words)])


def test_what_is_written_is_what_the_page_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    held = Image.Exif()
    held[ExifTags.Base.Orientation] = 6  # a phone held upright: the stored pixels are turned
    Image.fromarray(made_up(160, 120)).save("photo.jpg", exif=held)
    assert export(run, "--image", "photo.jpg") == 0
    said = capsys.readouterr().out.splitlines()
    numbers = re.fullmatch(
        r"file and network differ on 160x120: detections (\d+) and \1, boxes (\S+) pixels, .*", said[0]
    )
    assert numbers is not None and int(numbers[1]) > 3 and float(numbers[2]) < 0.01 and said[1:] == ["model.onnx"]
    metadata = {entry.key: entry.value for entry in onnx.load("model.onnx").metadata_props}
    assert json.loads(metadata["classes"]) == NAMES

    page = (ROOT / "docs" / "serving.md").read_text()
    (script,) = re.findall(r"```python\n(# serve.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "serve.py").write_text(script)
    left = runpy.run_path("serve.py")
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == (left["scores"] >= 0.5).sum() > 0 and all(line.startswith("thing ") for line in shown)
    assert left["masks"].shape == (len(left["scores"]), 120, 160)

    how = ["--threshold", "0", "--no-pictures", "--engine", "torchvision"]
    assert tool("predict").main(["--weights", str(run / "model_final.pth"), "photo.jpg", *how]) == 0
    predicted = json.loads(Path("predictions/predictions.json").read_text())["annotations"]
    np.testing.assert_allclose([p["score"] for p in predicted], left["scores"], atol=1e-4)
    corners = [[x, y, x + w, y + h] for x, y, w, h in (p["bbox"] for p in predicted)]
    np.testing.assert_allclose(corners, left["boxes"], atol=0.01)
    assert [p["category_id"] - 1 for p in predicted] == left["labels"].tolist()


def test_without_a_resize_as_the_page_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(run, "--opts", "INPUT.MIN_SIZE_TEST", "0") == 0, capsys.readouterr().err
    metadata = {entry.key: entry.value for entry in onnx.load("model.onnx").metadata_props}
    assert metadata["min_size"] == "0"


def test_mistakes_end_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (3000, 1)).save(tmp_path / "thin.png")
    torch.save({"model": {"stem.conv1.weight": torch.zeros(1)}}, tmp_path / "model_final.pth")
    torch.save({"model": {}}, tmp_path / "empty.pth")
    whole = (run / "model_final.pth").read_bytes()
    for name, content in (("alone/model_final.pth", whole), ("cut/model_final.pth", whole[: len(whole) // 2])):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a folder" / "model_final.pth").mkdir(parents=True)
    for name in ("stopped", "a folder/model_final.pth"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "model_0000005.pth").touch()
    config = ["--config-file", run / "config.yaml"]
    output = ["--output", tmp_path / "out" / "model.onnx"]
    for folder, words, message in (
        (run, ["--image", "gone.jpg"], "'gone.jpg' leads to no image"),
        (run, ["--image", tmp_path / "text.jpg"], "text.jpg': "),
        (run, ["--image", tmp_path / "thin.png"], "nothing is left of the shorter one"),
        (run, ["--format", "torch"], "files of --format torch end in .pt2"),
        (run, ["--opts", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "2"], "it must be at least 0 and at most 1"),
        (run, ["--opts", "MODEL.ROI_HEADS.NUM_CLASSES", "9"], "does not fit this model"),
        (run, ["--opts", "MODEL.DENSEPOSE_ON", "True"], "densepose"),
        (tmp_path / "alone", [], "config.yaml' does not exist; give --weights in a run's folder"),
        (tmp_path / "none", config, "are no file; give the model_final.pth of a run"),
        (tmp_path / "stopped", config, "stopped' has model_0000005.pth"),
        (tmp_path / "a folder", config, "a folder/model_final.pth' has model_0000005.pth"),
        (tmp_path, config, "holds a trunk, not a whole network"),
        (tmp_path / "cut", config, "cut/model_final.pth"),
    ):
        assert export(folder, *output, *words) == 2, words
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said, words
        assert not (tmp_path / "out" / "model.onnx").exists()
