"""Writes and reads checkpoints: the reference's layout, plus what an interrupted run needs to go on exactly.

The reference's keys are `{epoch, arch, state_dict, optimizer}`: `epoch` counts finished epochs, and the names in
`state_dict` always carry the `module.` prefix of DistributedDataParallel, whether it was used or not. Our own keys are
`iteration`, `seconds`, `scaler` (of the loss, empty without fp16), `config`, `seed`, `data`, `weights_sha256` and
`processes` (one dict per process: RNG, running means, skipped images).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.amp import GradScaler

from pretrain.config import RUNTIME_KEYS, get_cfg
from pretrain.loop import TrainState
from pretrain.mean import Mean
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError, dotted_keys, to_dict, value_at
from pretrain.runtime.seed import capture_rng, restore_rng

LAST = "checkpoint_last.pth.tar"
PREFIX = "module."
STORES = ("queue", "queue_ptr", "bank", "Z")  # where mechanisms keep keys


def epoch_name(epoch: int) -> str:
    """Returns the name of the file that keeps the state after `epoch` (from 0), as the reference names it."""
    return f"checkpoint_{epoch:04d}.pth.tar"


@dataclass(frozen=True)
class Identity:
    """Holds what must be equal for a checkpoint to be continued.

    Attributes:
        cfg: the run's config.
        data: digest of the image names, in order.
        weights_sha256: SHA-256 of MODEL.WEIGHTS, None without initial weights.
    """

    cfg: CfgNode
    data: str
    weights_sha256: str | None


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    state: TrainState,
    epoch: int,
    identity: Identity,
) -> dict[str, Any]:
    """Returns everything that goes into the file. Every process must call.

    Args:
        model: the model, not wrapped in DistributedDataParallel.
        epoch: number of finished epochs.
    """
    process = {
        "rng": capture_rng(),
        "skipped": state.skipped,
        "window": state.window.sums.cpu(),
        "epoch": state.epoch.sums.cpu(),
        "scalars": state.epoch.names,
    }
    return {
        "epoch": epoch,
        "arch": identity.cfg.MODEL.ARCH,
        "state_dict": {PREFIX + name: value for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "iteration": state.iteration,
        "seconds": state.seconds,
        "config": to_dict(identity.cfg),
        "seed": identity.cfg.SEED,
        "data": identity.data,
        "weights_sha256": identity.weights_sha256,
        "processes": dist.gather_objects(process),
    }


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: GradScaler, identity: Identity
) -> TrainState:
    """Restores model, optimizer, scaler and RNG from the checkpoint `path`, and returns how far its run had come.

    Raises:
        CheckpointError: it cannot be read, is not whole, or lacks our keys (as a checkpoint of the reference does).
        ConfigError: it belongs to another run: config, seed, data, initial weights or number of processes differ.
    """
    saved = _read(path)
    if "processes" not in saved:
        raise CheckpointError(
            f"'{path}' holds weights but neither RNG nor position (a checkpoint of the reference implementation?); "
            "it can start a new run with MODEL.WEIGHTS, in another OUTPUT_DIR"
        )
    changes = run_changes(saved, identity.cfg, get_cfg(), RUNTIME_KEYS)
    if saved["data"] != identity.data:
        changes.append("DATA.TRAIN names other images")
    if saved["weights_sha256"] != identity.weights_sha256:
        changes.append("MODEL.WEIGHTS is another file")
    check_same_run(path, changes)
    state = _without_prefix(saved["state_dict"])
    if problems := checkpoint.misfits(state, model.state_dict(), "the model"):
        raise CheckpointError(f"'{path}' is not whole: {problems}; restore the file that the run wrote, or start anew")
    model.load_state_dict(state)
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"])
    process = saved["processes"][dist.rank()]
    restore_rng(process["rng"])
    device = next(model.parameters()).device
    names = tuple(process.get("scalars", ("loss", "acc1")))  # absent from the oldest files
    window, epoch = (Mean(process[name].to(device), names) for name in ("window", "epoch"))
    return TrainState(saved["iteration"], saved["seconds"], process["skipped"], window, epoch)


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Starts `model` from the weights alone of a checkpoint of ours, of any mechanism, or of the reference.

    If the file has no `encoder_k`, the key encoder starts as a copy of the query encoder. If it has no queue or bank,
    that of the model stays random. What this mechanism does not have is left out.

    Raises:
        CheckpointError: the file cannot be read, is no MoCo checkpoint, or is of another architecture, head, dimension,
            queue or bank.
    """
    given = _without_prefix(_read(Path(path))["state_dict"])
    own = model.state_dict()
    if not any(name.startswith("encoder_q.") for name in given):
        raise CheckpointError(f"'{path}' holds no encoder_q.*: it is no MoCo checkpoint")
    if not any(name.startswith("encoder_k.") for name in given):
        queries = [name for name in given if name.startswith("encoder_q.")]
        given.update({name.replace("encoder_q.", "encoder_k.", 1): given[name] for name in queries})
    given.update({name: own[name] for name in STORES if name in own and name not in given})
    parts = {name.split(".")[0] for name in own}
    elsewhere = {"encoder_k", *STORES} - parts  # what other mechanisms have and this one has not
    given = {name: value for name, value in given.items() if name.split(".")[0] not in elsewhere}
    if problems := checkpoint.misfits(given, own, "the model"):
        raise CheckpointError(f"'{path}' does not fit MODEL.ARCH, DIM, K and MLP of this config: {problems}")
    model.load_state_dict(given)


def _read(path: Path) -> dict[str, Any]:
    saved = checkpoint.load(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
        raise CheckpointError(f"'{path}' has no 'state_dict': it is no MoCo checkpoint")
    return saved


def _without_prefix(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): value for name, value in state_dict.items()}


def run_changes(saved: dict[str, Any], cfg: CfgNode, defaults: CfgNode, runtime_keys: Collection[str]) -> list[str]:
    """Returns in words how a checkpoint's run differs from this one in config, seed and number of processes.

    Args:
        saved: the checkpoint.
        cfg: this run's config.
        defaults: values of keys that are younger than the checkpoint.
        runtime_keys: keys that may differ.
    """
    then, now = {**_leaves(to_dict(defaults)), **_leaves(saved["config"])}, _leaves(to_dict(cfg))
    changes = [
        f"{key} was {then.get(key)}, is {now.get(key)}"
        for key in sorted(then.keys() | now.keys())
        if key not in runtime_keys and then.get(key) != now.get(key)
    ]
    if saved["seed"] != cfg.SEED:
        changes.append(f"SEED was {saved['seed']}, is {cfg.SEED}")
    if len(saved["processes"]) != dist.world_size():
        changes.append(f"there were {len(saved['processes'])} processes, are {dist.world_size()}")
    return changes


def check_same_run(path: Path, changes: Sequence[str]) -> None:
    """Raises ConfigError if there are any changes."""
    if changes:
        raise ConfigError(
            f"'{path}' belongs to another run: {'; '.join(changes)}. Restore what changed, or choose another OUTPUT_DIR"
        )


def _leaves(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value_at(tree, key) for key in dotted_keys(tree)}
