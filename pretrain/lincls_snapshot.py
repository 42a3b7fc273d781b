"""The linear probe's checkpoint: the reference's layout, plus what an interrupted probe needs to go on exactly.

`{epoch, arch, state_dict, best_acc1, optimizer}` are the reference's keys: `epoch` counts finished epochs, the names in
`state_dict` are those of the whole ResNet behind `module.`, `best_acc1` is in percent, and the optimizer knows two
tensors, fc.weight and fc.bias. Our own keys are `iteration`, `seconds`, `config`, `seed`, `data`, `trunk_sha256`,
`validation` and `processes` (one dict per process: running means, skipped images). There is no state of random
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
from torch import nn

from pretrain.lincls_config import RUNTIME_KEYS, get_lincls_cfg
from pretrain.loop import Mean, TrainState
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import to_dict
from pretrain.snapshot import PREFIX, check_same_run, run_changes
from pretrain.trunk import FrozenTrunk


@dataclass
class Validation:
    """Scores on the validation set: those after the last finished epoch, and the best so far. Accuracies in percent."""

    acc1: float = math.nan
    acc5: float = math.nan
    loss: float = math.nan
    best_acc1: float = 0.0


@dataclass(frozen=True)
class Identity:
    """What must be equal for a checkpoint to be continued.

    Attributes:
        cfg: the probe's config.
        data: digests of the training and the validation set.
        trunk_sha256: `fingerprint` of the trunk.
        arch: its architecture.
    """

    cfg: CfgNode
    data: list[str]
    trunk_sha256: str
    arch: str


def capture(
    trunk: FrozenTrunk,
    fc: nn.Linear,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    validation: Validation,
    epoch: int,
    identity: Identity,
) -> dict[str, Any]:
    """Everything that goes into the file. Every process must call.

    Args:
        epoch: finished epochs.
    """
    process = {"skipped": state.skipped, "window": state.window.sums.cpu(), "epoch": state.epoch.sums.cpu()}
    tensors = {**trunk.network.state_dict(), **fc.state_dict(prefix="fc.")}
    return {
        "epoch": epoch,
        "arch": identity.arch,
        "state_dict": {PREFIX + name: value for name, value in tensors.items()},
        "best_acc1": torch.tensor(validation.best_acc1),  # the reference expects a tensor
        "optimizer": optimizer.state_dict(),
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
    path: Path, fc: nn.Linear, optimizer: torch.optim.Optimizer, identity: Identity
) -> tuple[TrainState, Validation]:
    """Brings classifier and optimizer back to where `path` was written, and returns how far that was.

    The trunk is not read from here: it is frozen, and `trunk_sha256` says whether it is the same.

    Raises:
        CheckpointError: not readable, or without our keys (a checkpoint of the reference).
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
    fc.load_state_dict({name: saved["state_dict"][f"{PREFIX}fc.{name}"] for name in fc.state_dict()})
    optimizer.load_state_dict(saved["optimizer"])
    process = saved["processes"][dist.rank()]
    window, epoch = (Mean(process[name].to(fc.weight.device)) for name in ("window", "epoch"))
    state = TrainState(saved["iteration"], saved["seconds"], process["skipped"], window, epoch)
    return state, Validation(**saved["validation"])
