"""Exported files compute what the network computes, at sizes that were not traced, or they are not written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.provenance import file_sha256
from tests import networks
from transfer.engines.base import EngineError
from transfer.engines.tv.serving import file_formats
from transfer.engines.tv.serving.export import export
from transfer.engines.tv.serving.proof import made_up

NAMES = [f"class {i}" for i in range(8)]
SIZES = [(97, 121), (150, 64), (64, 64)]


@pytest.fixture
def cfg(request: Any, tmp_path: Path) -> Any:
    """Of a run whose weights are there; a test's `opts` on top."""
    name, opts = request.getfixturevalue("name"), getattr(request, "param", ())
    made = networks.config(name, tmp_path, *opts)
    return networks.config(name, tmp_path, *opts, "MODEL.WEIGHTS", str(networks.save(made)))


@pytest.mark.parametrize("name", ["R18-C4", "R18-FPN-mask", "R18-FPN-keypoint", "semantic"])
def test_onnx(name: str, cfg: Any, tmp_path: Path) -> None:
    file = tmp_path / "new" / "model.onnx"
    differences = export(cfg, file, "onnx", NAMES, [made_up(*size) for size in SIZES])
    assert [d.size for d in differences] == SIZES
    for d in differences:
        assert d.lost == 0 and d.boxes < 0.01 and d.scores < 1e-4 and not d.too_large
        assert (d.masks is None, d.points is None, d.classes is None) == (
            "mask" not in name, "keypoint" not in name, name != "semantic",
        )  # fmt: skip
    assert name == "semantic" or sum(d.found[1] for d in differences if d.found is not None) > 10
    model = onnx.load(file)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == NAMES and metadata["channel_order"] == cfg.INPUT.FORMAT
    assert (metadata["min_size"], metadata["max_size"]) == (str(cfg.INPUT.MIN_SIZE_TEST), "213")
    assert metadata["weights_sha256"] == file_sha256(cfg.MODEL.WEIGHTS)
    assert metadata.get("score_threshold") == (None if name == "semantic" else str(0.05))
    (image,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [3, "height", "width"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["R18-C4", "R18-FPN-mask", "semantic"])
def test_torch(name: str, cfg: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    differences = export(cfg, file, "torch", NAMES, [made_up(*size) for size in SIZES])
    assert all(d.lost == 0 and d.boxes < 0.01 and d.scores < 1e-4 and not d.too_large for d in differences)
    extra = {"metadata.json": ""}
    torch.export.load(file, extra_files=extra)
    assert json.loads(json.loads(extra["metadata.json"])["classes"]) == NAMES


@pytest.mark.parametrize("cfg", [("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")], indirect=True)
@pytest.mark.parametrize("name", ["R18-FPN-keypoint-mask"])
def test_nothing_found_is_empty_and_told(name: str, cfg: Any, tmp_path: Path, caplog: Any) -> None:
    (difference,) = export(cfg, tmp_path / "model.onnx", "onnx", NAMES, [made_up(97, 121)])
    assert difference.found == (0, 0) and "name some of yours with --image" in caplog.text
    outputs = file_formats.FORMATS["onnx"].runner((tmp_path / "model.onnx").read_bytes())(
        np.zeros((3, 97, 121), np.uint8)
    )
    assert [o.shape for o in outputs] == [(0, 4), (0,), (0,), (0, 97, 121), (0, 5, 3)]


@pytest.mark.parametrize("name", ["R18-C4"])
def test_a_file_that_computes_something_else_is_not_written(
    name: str, cfg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: file_formats.Onnx, file: bytes) -> file_formats.Runner:
        run = runner(self, file)
        return lambda image: [output + 1 for output in run(image)]

    runner = file_formats.Onnx.runner
    monkeypatch.setattr(file_formats.Onnx, "runner", wrong)
    (tmp_path / "model.onnx").write_bytes(b"an earlier one")
    with pytest.raises(EngineError, match=r"model.onnx' is not written: it differs .*without a counterpart"):
        export(cfg, tmp_path / "model.onnx", "onnx", NAMES, [made_up(97, 121)])
    assert (tmp_path / "model.onnx").read_bytes() == b"an earlier one"


class _Worked(Exception):
    """Raised where the long work would begin."""


@pytest.mark.parametrize(
    ("name", "kind", "output", "message"),
    [
        ("R18-FPN-keypoint", "torch", "model.pt2", "keypoints are found by a loop.*--format onnx"),
        ("R18-C4", "onnx", "model.pt2", r"files of --format onnx end in \.onnx"),
        ("R18-C4", "torch", "model.onnx", r"files of --format torch end in \.pt2"),
        ("R18-C4", "onnx", "folder.onnx", "is a folder; name the file"),
    ],
)
def test_refused_before_the_work(
    name: str, kind: str, output: str, message: str, cfg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> bytes:
        raise _Worked

    monkeypatch.setattr(file_formats.Onnx, "write", work)
    monkeypatch.setattr(file_formats.Exported, "write", work)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=message):
        export(cfg, tmp_path / output, kind, NAMES, [])


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("name", ["R18-C4"])
def test_a_library_that_is_missing(
    name: str, library: str, cfg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=r"pip install 'moco-transfer\[export\]'"):
        export(cfg, tmp_path / "model.onnx", "onnx", NAMES, [])


@pytest.mark.parametrize("name", ["R18-C4"])
def test_what_torch_does_not_trace_is_one_line(
    name: str, cfg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("an operator of tomorrow\nand a page of explanation")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(EngineError, match="does not trace this network to onnx: an operator of tomorrow$"):
        export(cfg, tmp_path / "model.onnx", "onnx", NAMES, [])
    assert not (tmp_path / "model.onnx").exists()
