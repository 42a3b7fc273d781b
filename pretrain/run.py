"""One pre-training run, from a config to `result.json`. Here the config is read; everything below takes arguments."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from fvcore.common.config import CfgNode
from torch.nn.parallel import DistributedDataParallel

from pretrain import snapshot
from pretrain.augment import TwoCrops, recipe
from pretrain.config import RUNTIME_KEYS, check
from pretrain.data import MAX_REPLACEMENTS, ImageFiles, TrainingBatches, TwoViewDataset, build_loader, find_images
from pretrain.encoders import base_encoder
from pretrain.loop import Plan, TrainState, rate, train
from pretrain.moco import MoCo
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.provenance import config_digest, environment
from pretrain.runtime.result import FILE_NAME, RunResult
from pretrain.runtime.seed import seed_everything
from pretrain.schedule import by_name

LOG = logging.getLogger(__name__)

Resume = Literal["no", "yes", "auto"]


def main(cfg: CfgNode, resume: Resume = "no") -> RunResult:
    """Pre-trains, and leaves checkpoint_last.pth.tar, metrics.jsonl, config.yaml and result.json in `cfg.OUTPUT_DIR`.

    Under `torchrun` every process calls this; it joins the process group and leaves it again.

    Args:
        cfg: see `pretrain.config`.
        resume: "no" starts afresh and refuses a folder with a checkpoint; "yes" continues the folder's checkpoint and
            refuses to start without; "auto" does whichever is possible. A finished run is returned, not repeated.

    Raises:
        ConfigError: config, data or folder cannot be used, or the checkpoint belongs to another run.
        CheckpointError: MODEL.WEIGHTS or the checkpoint cannot be used.
        BadImageError, DivergedError: while training.
        ValueError: another `resume`.
    """
    if resume not in get_args(Resume):
        raise ValueError(f"resume is {resume!r}; it must be one of {get_args(Resume)}")
    owns_group = not dist.is_initialized()
    device = _device(cfg.DEVICE)
    dist.init_from_env(device.type)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        return _run(cfg, resume, device)
    finally:
        if owns_group:
            dist.shutdown()


def _run(cfg: CfgNode, resume: Resume, device: torch.device) -> RunResult:
    check(cfg, dist.world_size())
    folder = Path(cfg.OUTPUT_DIR)
    files = find_images(cfg.DATA.TRAIN)
    identity = snapshot.Identity(cfg, files.digest(), _weights_sha256(cfg.MODEL.WEIGHTS))
    done = _finished(folder, identity) if dist.is_main() and resume != "no" else None
    if (done := dist.broadcast_object(done)) is not None:
        LOG.info("'%s' is finished already; nothing to do", folder / FILE_NAME)
        return done
    resume_from = _resume_from(folder, resume)

    model = build_model(cfg).to(device)
    # All parameters, in the reference's order: its optimizer state lists the key encoder too (no gradient, no step).
    optimizer = torch.optim.SGD(
        model.parameters(), cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, weight_decay=cfg.SOLVER.WEIGHT_DECAY
    )
    state = TrainState()
    if resume_from is not None:
        state = snapshot.restore(resume_from, model, optimizer, identity)
        LOG.info("resumed '%s' at iteration %d", resume_from, state.iteration)

    batches = _batches(cfg, files, state)
    plan = _plan(cfg, batches)
    writer = _prepare_folder(cfg, folder, state) if dist.is_main() else None
    LOG.info("%d images, %d epochs of %d iterations", len(files), plan.epochs, plan.per_epoch)
    LOG.info(_layout(cfg, device))

    def save(state: TrainState) -> None:
        epochs, rest = divmod(state.iteration, plan.per_epoch)
        contents = snapshot.capture(model, optimizer, state, epochs, identity)
        keep = cfg.CHECKPOINT.KEEP_EVERY_EPOCHS
        if dist.is_main():
            checkpoint.save(contents, folder / snapshot.LAST)
            if keep and rest == 0 and epochs % keep == 0:
                checkpoint.save(contents, folder / snapshot.epoch_name(epochs - 1))

    try:
        train(
            data_parallel(model, device),
            optimizer,
            build_loader(_dataset(cfg, files), batches, cfg.DATA.NUM_WORKERS, pin_memory=device.type == "cuda"),
            state,
            plan,
            device=device,
            writer=writer,
            save=save,
        )
    finally:
        if writer is not None:
            writer.close()
    return _result(cfg, folder, identity, files, state, plan, device)


def build_model(cfg: CfgNode) -> MoCo:
    """MoCo on the CPU, the same in every process: SEED decides encoders and queue, then MODEL.WEIGHTS if given."""
    seed_everything(cfg.SEED)
    model = MoCo(
        base_encoder(cfg.MODEL.ARCH, cfg.MODEL.BN_GROUPS),
        dim=cfg.MODEL.DIM,
        K=cfg.MODEL.K,
        m=cfg.MODEL.M,
        T=cfg.MODEL.T,
        mlp=cfg.MODEL.MLP,
        shuffle_bn=cfg.MODEL.SHUFFLE_BN,
    )
    if cfg.MODEL.WEIGHTS:
        snapshot.load_weights(cfg.MODEL.WEIGHTS, model)
    return model


def data_parallel(model: MoCo, device: torch.device) -> torch.nn.Module:
    """DistributedDataParallel if there are several processes, else `model` itself.

    Buffers are not broadcast: the queue is equal in all processes by construction, and BN statistics in training are
    each process's own. (The reference broadcasts them from rank 0, 32 MB of queue per iteration; rank 0, whose state
    is saved, is left with the same values either way.)
    """
    if dist.world_size() == 1:
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in newer torch
    no_sync: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None, **no_sync)


def _dataset(cfg: CfgNode, files: ImageFiles) -> TwoViewDataset:
    views = TwoCrops(recipe(cfg.AUG.RECIPE, cfg.AUG.CROP_SIZE, cfg.AUG.SCALE))
    return TwoViewDataset(files, views, cfg.SEED, MAX_REPLACEMENTS if cfg.DATA.ON_BAD_IMAGE == "skip" else 0)


def _batches(cfg: CfgNode, files: ImageFiles, state: TrainState) -> TrainingBatches:
    return TrainingBatches(
        len(files),
        cfg.SOLVER.BATCH_SIZE,
        cfg.SOLVER.EPOCHS,
        cfg.SEED,
        start=state.iteration,
        rank=dist.rank(),
        world_size=dist.world_size(),
    )


def _plan(cfg: CfgNode, batches: TrainingBatches) -> Plan:
    solver = cfg.SOLVER
    return Plan(
        batch_size=solver.BATCH_SIZE,
        per_epoch=batches.per_epoch,
        epochs=solver.EPOCHS,
        learning_rate=by_name(
            solver.SCHEDULE, base_lr=solver.BASE_LR, epochs=solver.EPOCHS, steps=solver.STEPS, gamma=solver.GAMMA
        ),
        log_period=cfg.LOG_PERIOD,
        checkpoint_period=cfg.CHECKPOINT.PERIOD,
        checkpoint_seconds=cfg.CHECKPOINT.PERIOD_SECONDS,
    )


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("DEVICE is 'cuda', but torch sees no CUDA device; set DEVICE cpu or auto")
    device = torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as the reference: all batches have one shape
    return device


def _weights_sha256(path: str) -> str | None:
    if not path:
        return None
    try:
        return checkpoint.sha256(path)
    except OSError as error:
        raise ConfigError(f"MODEL.WEIGHTS '{path}' cannot be read: {error}") from error


def _digest(cfg: CfgNode) -> str:
    return config_digest(cfg, exclude=RUNTIME_KEYS)


def _layout(cfg: CfgNode, device: torch.device) -> str:
    groups = dist.world_size() * cfg.MODEL.BN_GROUPS
    size = cfg.SOLVER.BATCH_SIZE // groups
    return f"processes: {dist.world_size()} on {device.type}; BN groups: {groups} of {size} images"


def _finished(folder: Path, identity: snapshot.Identity) -> RunResult | None:
    """The result in the folder if it is that of this very run."""
    if not (folder / FILE_NAME).is_file():
        return None
    try:
        result = RunResult.load(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    theirs = (result.kind, result.config_digest, result.seed, result.weights_sha256, result.extra.get("data_digest"))
    cfg = identity.cfg
    ours = ("pretrain", _digest(cfg), cfg.SEED, identity.weights_sha256, identity.data)
    return result if theirs == ours else None


def _resume_from(folder: Path, resume: Resume) -> Path | None:
    last = folder / snapshot.LAST
    if resume == "no" and last.exists():
        raise ConfigError(f"'{last}' exists; continue it with --resume, or choose another OUTPUT_DIR")
    if resume == "yes" and not last.exists():
        raise ConfigError(f"nothing to resume: '{last}' does not exist; leave --resume out, or use --resume auto")
    return last if resume != "no" and last.exists() else None


def _prepare_folder(cfg: CfgNode, folder: Path, state: TrainState) -> MetricsWriter:
    """Output folder with the config in it, without what a killed process left; returns where metrics go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        snapshot.remove_leftovers(folder)
        (folder / FILE_NAME).unlink(missing_ok=True)  # of another config: it would speak for this run
        with checkpoint.atomic_write(folder / "config.yaml", "w") as f:
            f.write(cfg.dump())
        return MetricsWriter(folder, start_iteration=state.iteration, tensorboard=cfg.TENSORBOARD)
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR '{folder}' cannot be written: {error}") from error


def _result(
    cfg: CfgNode,
    folder: Path,
    identity: snapshot.Identity,
    files: ImageFiles,
    state: TrainState,
    plan: Plan,
    device: torch.device,
) -> RunResult:
    loss, acc1 = state.epoch.over_processes()
    skipped = sum(dist.gather_objects(state.skipped))
    result = RunResult(
        kind="pretrain",
        engine="pretrain",
        seed=cfg.SEED,
        config_digest=_digest(cfg),
        weights_sha256=identity.weights_sha256,
        metrics={"loss": loss, "acc1": acc1, "images_per_second": rate(state, plan), "skipped": float(skipped)},
        iterations=state.iteration,
        seconds=state.seconds,
        notes=[
            f"loss and acc1 (percent, 1 of 1+K) are means over the last epoch of {plan.per_epoch} iterations",
            _layout(cfg, device),
            f"unreadable images replaced: {skipped} (DATA.ON_BAD_IMAGE {cfg.DATA.ON_BAD_IMAGE})",
        ],
        artifacts={"checkpoint": snapshot.LAST, "config": "config.yaml", "metrics": "metrics.jsonl"},
        provenance=environment(),
        extra={"arch": cfg.MODEL.ARCH, "images": len(files), "data_digest": identity.data},
    )
    if dist.is_main():
        result.save(folder)
    dist.barrier()
    return result
