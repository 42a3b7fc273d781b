"""Writes and reads a classifier's checkpoints: the reference's layout, plus what a run needs to go on exactly.

The reference's keys are `{epoch, arch, state_dict, best_acc1, optimizer}`: `epoch` counts finished epochs, the names in
`state_dict` are those of the whole ResNet behind `module.`, `best_acc1` is in percent, and the optimizer's state covers
what is trained: all tensors of the ResNet, or fc.weight and fc.bias on a frozen trunk. Our own keys are `scaler` (of
the loss, empty without fp16), `iteration`, `seconds`, `config`, `seed`, `data`, `trunk_sha256` (of the trunk at the
start), `validation` and `processes` (one dict per process: running means, skipped images). There is no state of random
generators, because nothing draws from them: views and order are functions of (seed, epoch, image).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.amp import GradScaler

from pretrain.loop import TrainState
from pretrain.mean import Mean
from pretrain.probes.classifier import Classifier
from pretrain.probes.config import RUNTIME_KEYS, get_lincls_cfg
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import to_dict
from pretrain.snapshot import PREFIX, check_same_run, run_changes


@dataclass
class Validation:
    """Holds validation scores: those after the last finished epoch, and the best so far; accuracies in percent."""

    acc1: float = math.nan
    acc5: float = math.nan
    loss: float = math.nan
    best_acc1: float = 0.0

    def update(self, acc1: float, acc5: float, loss: float) -> None:
        """Records the scores after one more epoch."""
        self.acc1, self.acc5, self.loss, self.best_acc1 = acc1, acc5, loss, max(self.best_acc1, acc1)


@dataclass(frozen=True)
class Identity:
    """Holds what must be equal for a checkpoint to be continued.

    Attributes:
        cfg: the run's config.
        data: digests of the training and the validation set.
        trunk_sha256: `fingerprint` of the trunk at the start.
        arch: the trunk's architecture.
    """

    cfg: CfgNode
    data: list[str]
    trunk_sha256: str
    arch: str


def capture(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    state: TrainState,
    validation: Validation,
    epoch: int,
    identity: Identity,
) -> dict[str, Any]:
    """Returns everything that goes into the file. Every process must call.

    Args:
        epoch: number of finished epochs.
    """
    process = {"skipped": state.skipped, "window": state.window.sums.cpu(), "epoch": state.epoch.sums.cpu()}
    return {
        "epoch": epoch,
        "arch": identity.arch,
        "state_dict": {PREFIX + name: value for name, value in classifier.resnet_state().items()},
        "best_acc1": torch.tensor(validation.best_acc1),  # the reference expects a tensor
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "iteration": state.iteration,
        "seconds": state.seconds,
        "config": to_dict(identity.cfg),
        "seed": identity.cfg.SEED,
        "data": identity.data,
        "trunk_sha256": identity.trunk_sha256,
        "validation": dataclasses.asdict(validation),
        "processes": dist.gather_objects(process),
    }


def restore(
    path: Path, classifier: Classifier, optimizer: torch.optim.Optimizer, scaler: GradScaler, identity: Identity
) -> tuple[TrainState, Validation]:
    """Restores classifier, optimizer and scaler from the checkpoint `path`, and returns how far its run had come.

    Raises:
        CheckpointError: it cannot be read, is not whole, or lacks our keys (as a checkpoint of the reference does).
        ConfigError: it belongs to another run: config, seed, data, trunk or number of processes differ.
    """
    saved = checkpoint.load(path)
    if not isinstance(saved, dict) or "trunk_sha256" not in saved:
        raise CheckpointError(
            f"'{path}' does not say where its run was (a checkpoint of the reference implementation?), so it cannot be "
            "continued; choose another OUTPUT_DIR"
        )
    changes = run_changes(saved, identity.cfg, get_lincls_cfg(), RUNTIME_KEYS)
    for key, before, after in zip(("DATA.TRAIN", "DATA.VAL"), saved["data"], identity.data, strict=True):
        if before != after:
            changes.append(f"{key} names other images")
    if saved["trunk_sha256"] != identity.trunk_sha256:
        changes.append("MODEL.WEIGHTS holds another trunk")
    check_same_run(path, changes)
    tensors = {name.removeprefix(PREFIX): value for name, value in saved["state_dict"].items()}
    if problems := checkpoint.misfits(tensors, classifier.resnet_state(), "the classifier"):
        raise CheckpointError(f"'{path}' is not whole: {problems}; restore the file that the run wrote, or start anew")
    classifier.load_resnet_state(tensors)
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved.get("scaler", {}))  # absent from older files, all of frozen trunks
    process = saved["processes"][dist.rank()]
    device = classifier.fc.weight.device
    window, epoch = (Mean(process[name].to(device)) for name in ("window", "epoch"))
    state = TrainState(saved["iteration"], saved["seconds"], process["skipped"], window, epoch)
    return state, Validation(**saved["validation"])
