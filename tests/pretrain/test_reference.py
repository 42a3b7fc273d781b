"""Equality with the reference implementation (facebookresearch/moco), whose folder $MOCO_REFERENCE names."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision import models

from pretrain.encoders import base_encoder
from pretrain.moco import MoCo
from pretrain.run import build_model, data_parallel
from pretrain.runtime import checkpoint
from pretrain.runtime.result import RunResult
from tests.pretrain.conftest import MakeCfg
from tests.processes import run_in_processes

RECIPES = {"v1": {"T": 0.07, "mlp": False}, "v2": {"T": 0.2, "mlp": True}}


def load_builder(reference: Path) -> ModuleType:
    """The reference's model; on a machine without a GPU its `.cuda()` calls are left out."""
    spec = importlib.util.spec_from_file_location("reference_builder", reference / "moco" / "builder.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(model: nn.Module, steps: int, batch: int, rank: int, world: int) -> list[Tensor]:
    """Losses of `steps` SGD steps of the paper on 32-pixel noise; the shuffle is seeded."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(3)
    losses = []
    for _ in range(steps):
        base = torch.randn(batch, 3, 32, 32, generator=generator)
        im_q, im_k = (base + 0.3 * torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(2))
        loss = F.cross_entropy(*model(im_q[rank::world], im_k[rank::world]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def both_recipes(reference: Path, steps: int, batch: int) -> dict[str, dict[str, float]]:
    return {recipe: differences(reference, recipe, steps, batch) for recipe in RECIPES}


def differences(reference: Path, recipe: str, steps: int, batch: int) -> dict[str, float]:
    """Largest absolute differences between the reference and ours, in the current process group."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment, method-assign]
    runs: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]] = []
    for make in (
        lambda: load_builder(reference).MoCo(models.resnet18, K=64, m=0.99, **RECIPES[recipe]),
        lambda: MoCo(base_encoder("resnet18"), K=64, m=0.99, **RECIPES[recipe]),  # type: ignore[arg-type]
    ):
        torch.manual_seed(0)
        model = make()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        if isinstance(model, MoCo):
            parallel = data_parallel(model, torch.device("cpu"))
        else:
            parallel = DistributedDataParallel(model) if world > 1 else model
        losses = train(parallel, steps, batch, rank, world)
        runs.append((start, model.state_dict(), torch.stack(losses)))
    (start_a, end_a, losses_a), (start_b, end_b, losses_b) = runs
    assert list(start_a) == list(start_b)

    def largest(a: dict[str, Tensor], b: dict[str, Tensor], prefix: str = "") -> float:
        names = [n for n in a if n.startswith(prefix) and a[n].is_floating_point()]
        if rank > 0:  # the reference overwrites these with rank 0's, which ours never needs; rank 0 saves
            names = [n for n in names if "running" not in n]
        return max(float((a[n] - b[n]).abs().max()) for n in names)

    return {
        "start": largest(start_a, start_b),
        "loss": float((losses_a - losses_b).abs().max()),
        "encoder_q": largest(end_a, end_b, "encoder_q."),
        "encoder_k": largest(end_a, end_b, "encoder_k."),
        "queue": largest(end_a, end_b, "queue"),
        "queue_ptr": float(end_a["queue_ptr"] != end_b["queue_ptr"]),
        "moved": largest(start_a, end_a, "encoder_q.conv1"),
    }


@pytest.mark.parametrize("world, steps", [(1, 20), (2, 5)])
def test_training_equals_the_references(reference: Path, tmp_path: Path, world: int, steps: int) -> None:
    for rank, recipes in enumerate(run_in_processes(both_recipes, tmp_path, reference, steps, 16, world_size=world)):
        for recipe, largest in recipes.items():
            shown = ", ".join(f"{name} {value:.1e}" for name, value in largest.items())
            sys.stdout.write(f"\n{recipe}, rank {rank} of {world}, {steps} steps, largest differences: {shown}\n")
            assert largest["start"] == 0 and largest["queue_ptr"] == 0 and largest["moved"] > 1e-3
            assert max(largest[key] for key in ("loss", "encoder_q", "encoder_k", "queue")) <= 1e-5


def test_reference_converter_takes_our_checkpoint(
    reference: Path, finished: tuple[CfgNode, RunResult], tmp_path: Path
) -> None:
    ours, theirs = Path(finished[0].OUTPUT_DIR) / "checkpoint_last.pth.tar", tmp_path / "out.pkl"
    script = reference / "detection" / "convert-pretrain-to-detectron2.py"
    subprocess.run([sys.executable, str(script), str(ours), str(theirs)], check=True, stdout=subprocess.DEVNULL)
    with open(theirs, "rb") as f:
        converted = pickle.load(f)
    state = checkpoint.load(ours)["state_dict"]
    assert converted["__author__"] == "MOCO" and converted["matching_heuristics"] is True
    assert len(converted["model"]) == sum(name.startswith("module.encoder_q.") for name in state)
    for name, source in {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.conv2.weight": "layer1.0.conv2.weight",
        "res3.0.shortcut.weight": "layer2.0.downsample.0.weight",
        "res3.0.shortcut.norm.bias": "layer2.0.downsample.1.bias",
        "res5.1.conv2.norm.running_mean": "layer4.1.bn2.running_mean",
    }.items():
        assert (converted["model"][name] == state["module.encoder_q." + source].numpy()).all(), name


def test_checkpoints_cross_over(
    reference: Path, finished: tuple[CfgNode, RunResult], images: Path, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    cfg, _ = finished
    saved: dict[str, Any] = checkpoint.load(Path(cfg.OUTPUT_DIR) / "checkpoint_last.pth.tar")
    theirs = load_builder(reference).MoCo(models.resnet18, dim=16, K=32, mlp=True)
    wrapped = nn.ModuleDict({"module": theirs})  # the names that DistributedDataParallel gives
    wrapped.load_state_dict(saved["state_dict"])
    optimizer = torch.optim.SGD(theirs.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    optimizer.load_state_dict(saved["optimizer"])

    path = tmp_path / "reference.pth.tar"
    state = {"epoch": 2, "arch": "resnet18", "state_dict": wrapped.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, path)
    model = build_model(make_cfg(images, tmp_path, "MODEL.WEIGHTS", path))
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
