"""The contract's rules: resume, norms, devices, weights; and which engine is taken."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from transfer.config.load import load_config
from transfer.engines import resolve, select
from transfer.engines.base import EngineError
from transfer.engines.resolve import RunNotes


def test_synchronised_norms_are_plain_in_one_process_and_that_is_noted():
    fpn = ROOT / "configs" / "transfer" / "coco" / "mask_rcnn_R_50_FPN_1x.yaml"
    notes = RunNotes()
    for norm, processes, runs in (
        ("naiveSyncBN", 1, "BN"),
        ("naiveSyncBN", 2, "naiveSyncBN"),
        ("FrozenBN", 1, "FrozenBN"),
    ):
        cfg = load_config(fpn, ["MODEL.RESNETS.NORM", norm, "MODEL.FPN.NORM", norm])
        resolved = resolve.norms(cfg, processes, notes)
        assert resolved.MODEL.RESNETS.NORM == resolved.MODEL.FPN.NORM == runs and cfg.MODEL.RESNETS.NORM == norm
    (line,) = notes.lines
    assert "naiveSyncBN" in line and "plain BN" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu_is_noted():
    notes = RunNotes()
    assert resolve.device("cuda", notes) == "cpu" and "no GPU" in notes.lines[0]
    assert resolve.device("cpu", RunNotes()) == resolve.device("cpu") == "cpu"


def test_absent_weights_are_an_error(small_config, tmp_path):
    assert resolve.weights_file(load_config(small_config)) is None
    with pytest.raises(ConfigError, match="does not exist; convert a checkpoint"):
        resolve.weights_file(load_config(small_config, ["MODEL.WEIGHTS", str(tmp_path / "w.pkl")]))


def test_a_torch_file_that_detectron2_would_unpickle_is_an_error(small_config, tmp_path):
    """Detectron2 chooses its reader by the extension."""
    for legacy in (False, True):
        torch.save({"model": {}}, tmp_path / "w.pkl", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ConfigError, match="written by torch.save, and Detectron2 unpickles .* rename it to .pth"):
            resolve.weights_file(load_config(small_config, ["MODEL.WEIGHTS", str(tmp_path / "w.pkl")]))
    (tmp_path / "w.pkl").rename(tmp_path / "w.pth")
    path = str(tmp_path / "w.pth")
    assert resolve.weights_file(load_config(small_config, ["MODEL.WEIGHTS", path])) == path


def test_selection(monkeypatch):
    assert select.select("torchvision").name == "torchvision"
    with pytest.raises(EngineError, match="choose one of auto, detectron2, torchvision"):
        select.select("jax")
    monkeypatch.setattr(select, "detectron2_problem", lambda: "Detectron2 is not installed")
    assert select.select("auto").name == "torchvision"
    with pytest.raises(EngineError, match="not installed; install it with `make detectron2`"):
        select.select("detectron2")


@pytest.mark.d2
def test_detectron2_is_the_default_where_it_imports():
    assert select.select("auto").name == "detectron2" == select.select("detectron2").name


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is not None, reason="Detectron2 is installed")
def test_an_explicit_choice_never_falls_back():
    with pytest.raises(EngineError, match="Detectron2 is not installed"):
        select.select("detectron2")
