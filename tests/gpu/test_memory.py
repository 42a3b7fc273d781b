"""What a GPU's share of the papers' batch needs: memory and time of a step, as benchmarks/pretrain_cost.py has them."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from tests.conftest import ROOT
from tests.gpu.conftest import Measured

pytestmark = pytest.mark.gpu

SHARE = 32


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("pretrain_cost", ROOT / "benchmarks" / "pretrain_cost.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["moco", "end_to_end"])
def test_a_step_at_the_papers_share(name: str, benchmark: ModuleType, gpu: torch.device, measured: Measured) -> None:
    """32 images of 224 pixels, ResNet-50: half precision needs less memory, and torch holds what tensors take."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True  # as in a run
    costs = {}
    for amp in ("off", "bf16"):
        args = argparse.Namespace(arch="resnet50", size=224, amp=amp, channels_last=False, iterations=20)
        costs[amp] = cost = benchmark.measure(name, SHARE, args, gpu)
        assert 0 < cost.allocated <= cost.reserved and cost.seconds > 0
        precision = amp.replace("off", "float32 (TF32 convolutions)")
        measured.note(
            f"{name}, ResNet-50, {SHARE} images of 224 pixels, {precision}",
            f"{cost.allocated:.2f} GB allocated, {cost.reserved:.2f} reserved, {cost.seconds:.4f} s per iteration",
        )
    assert costs["bf16"].allocated < costs["off"].allocated
