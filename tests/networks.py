"""Small networks with lively weights, which find much and surely, as runs leave them: no training needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests import architectures, segmentors
from tests.parity.models import lively
from transfer.config.load import load_config
from transfer.engines import base, resolve, results
from transfer.engines.tv.adapters import adapter_of
from transfer.engines.tv.weights import detectron2_state, load_weights
from transfer.tasks import task_of


def config(name: str, folder: Path, *opts: str) -> Any:
    """Of one of `architectures.ARCHITECTURES`, or "semantic"; `folder` is the generated set, and gets the run."""
    if name == "semantic":
        resized = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "213"]
        return load_config(segmentors.DEMO, [*segmentors.options(folder, folder), *resized, *opts])
    file, _ = architectures.ARCHITECTURES[name]
    return load_config(file, [*architectures.options(name, folder, folder), *opts])


def network(cfg: Any) -> nn.Module:
    """The config's network on the torchvision engine, on the CPU, in evaluation."""
    task = task_of(cfg)
    assert task is not None
    torch.manual_seed(0)
    model = adapter_of(task.name).build(resolve.norms(cfg, 1, resolve.RunNotes()), "cpu")
    load_weights(model, lively(model, cfg), "test")
    return model.eval()


def save(cfg: Any) -> Path:
    """Writes a run's config.yaml and model_final.pth to OUTPUT_DIR, and returns the weights' path."""
    folder = Path(cfg.OUTPUT_DIR)
    results.save_config(cfg, folder)
    torch.save({"model": detectron2_state(network(cfg)), "engine": "torchvision"}, folder / base.FINAL_WEIGHTS)
    return folder / base.FINAL_WEIGHTS
