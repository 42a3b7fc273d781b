"""The benchmarks run and compare like with like. Nothing here looks at a time."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from transfer.convert.read import read_weights

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *options: object) -> list[str]:
    """The lines that a benchmark prints."""
    command = [sys.executable, str(FOLDER / script), *map(str, options)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines()


def test_made_up_jpegs_are_of_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from jpegs import read

    files = read("", 3)
    assert all(90_000 < len(data) < 130_000 for data in files) and len(set(files)) == 3
    assert all(Image.open(io.BytesIO(data)).size == (500, 375) for data in files)


def test_both_conversions_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("convert_benchmark", FOLDER / "convert.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.generate(str(tmp_path / "moco.pth.tar"), 18)
    for side, convert in benchmark.SIDES.items():
        convert(str(tmp_path / "moco.pth.tar"), str(tmp_path / f"{side}.pkl"))
    written = {side: read_weights(tmp_path / f"{side}.pkl") for side in benchmark.SIDES}
    expected = {k: v for k, v in written.pop("reference").items() if not k.startswith("stem.fc")}
    assert len(expected) == 120 and written
    for side, tensors in written.items():
        assert tensors.keys() == expected.keys(), side
        assert all(torch.equal(tensors[k], expected[k]) for k in expected), side


@pytest.mark.slow
def test_data_path() -> None:
    lines = run("data_path.py", "--count", 2, "--rounds", 1)
    for name in ("reference", "ours", "ours, AUG.BACKEND pil", "hand-over, torch.uint8"):
        assert any(re.match(rf"{re.escape(name)} .* ms/image .*x$", line) for line in lines), name


@pytest.mark.slow
def test_small_images_are_equal_from_memory() -> None:
    lines = run("small_images.py", "--count", 8, "--crop", 16, "--rounds", 1)
    assert lines.count("equal views") == 2
    for name in ("opencv, DATA.CACHE", "pil, DATA.CACHE"):
        assert any(re.match(rf"{name} .* ms/image .* images/s .*x$", line) for line in lines), name


@pytest.mark.slow
def test_both_steps_compute_the_same() -> None:
    lines = run("train_step.py", "--arch", "resnet18", "--size", 32, "--batch", 8, "--k", 64, "--steps", 2)
    apart = {line.split("  ")[0].strip(): re.search(r"apart (\S+), later at most (\S+)$", line) for line in lines[2:]}
    assert list(apart) == ["reference", "ours", "ours, channels_last", "ours, bf16 + channels_last"]
    assert apart["ours"] is not None and float(apart["ours"][1]) == float(apart["ours"][2]) == 0
    for name, bound in (("ours, channels_last", 1e-4), ("ours, bf16 + channels_last", 0.1)):
        assert (found := apart[name]) is not None and float(found[1]) < bound


@pytest.mark.slow
def test_pretrain_cost() -> None:
    names = ("moco", "end_to_end", "memory_bank", "simclr", "supervised")
    small = ("--arch", "resnet18", "--size", 32, "--share", 8, "--iterations", 1, "--device", "cpu")
    lines = run("pretrain_cost.py", "--mechanisms", *names, *small)
    for name in names:
        assert any(re.match(rf"{name}, 1 x 8 +- +- +\d+\.\d+ +\d+\.\d h   -$", line) for line in lines), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_reports_with_summaries_and_without(layout: str) -> None:
    lines = run("report.py", "--format", layout, "--images", 20, "--rows", 2, "--trials", 2, "--repeats", 1)
    for name in ("make_report.py with summaries", "make_report.py without", "ratio"):
        assert any(re.match(rf"{name} +\d+\.\d ", line) for line in lines), name


@pytest.mark.slow
@pytest.mark.d2
def test_detectors_of_both_engines() -> None:
    small = ("--networks", "R18-FPN", "--short-edge", 64, "--long-edge", 96, "--rounds", 1, "--images", 1, "--rois", 8)
    lines = run("detectors.py", *small)
    for what in ("training", "detecting"):
        for engine in ("Detectron2", "torchvision"):
            assert any(re.match(rf"  {what}, {engine} .* s/(iteration|image) .*x$", line) for line in lines), engine
