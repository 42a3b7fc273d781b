"""Runs one pre-training, from a config to `result.json`. The config is read here; everything below takes arguments."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch.amp import GradScaler

from pretrain import snapshot
from pretrain.build import (
    build_batches,
    build_dataset,
    build_knn,
    build_model,
    build_monitor,
    build_optimizer,
    build_plan,
    cautions,
    data_parallel,
    description,
    load,
    mechanism,
    memory_format,
    num_classes,
    place,
)
from pretrain.config import RUNTIME_KEYS, check, check_device
from pretrain.data.images import Images
from pretrain.loop import Plan, TrainState, rate, train
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.alone import alone_in
from pretrain.runtime.config import ConfigError
from pretrain.runtime.provenance import config_digest, environment, file_sha256
from pretrain.runtime.result import FILE_NAME, RunResult, named_inputs
from pretrain.session import Resume, finished, prepare, resume_point, session

LOG = logging.getLogger(__name__)


def main(cfg: CfgNode, resume: Resume = "no") -> RunResult:
    """Pre-trains, and writes checkpoint_last.pth.tar, metrics.jsonl, config.yaml and result.json in `cfg.OUTPUT_DIR`.

    Under `torchrun` every process calls this; it joins the process group and leaves it again.

    Args:
        cfg: see `pretrain.config`.
        resume: "no" starts afresh and refuses a folder with a checkpoint; "yes" continues the folder's checkpoint and
            refuses to start without; "auto" does whichever is possible. A finished run is returned, not repeated.

    Raises:
        ConfigError: the config, data, device or folder cannot be used, or the checkpoint belongs to another run.
        LockError: another run works in the folder.
        CheckpointError: MODEL.WEIGHTS or the checkpoint cannot be used.
        BadImageError, DivergedError: see `build.build_dataset` and `loop.train`.
        Preempted: SIGTERM or SIGUSR1 came while training; a checkpoint was written, and "yes" or "auto" continues it.
        ValueError: `resume` is none of these.
    """
    with session(cfg.DEVICE) as device:
        check(cfg, dist.world_size())
        check_device(cfg, device.type, dist.world_size())
        with alone_in(cfg.OUTPUT_DIR):
            return _run(cfg, resume, device)


def _run(cfg: CfgNode, resume: Resume, device: torch.device) -> RunResult:
    folder = Path(cfg.OUTPUT_DIR)
    files = mechanism(cfg).images(cfg)
    identity = snapshot.Identity(cfg, files.digest(), _weights_sha256(cfg.MODEL.WEIGHTS))
    resume_from = resume_point(folder / snapshot.LAST, resume)
    if resume != "no":
        same = {"config_digest": _digest(cfg), "seed": cfg.SEED, "weights_sha256": identity.weights_sha256}
        done = finished(folder, kind="pretrain", **same)
        if done is not None and done.extra.get("data_digest") == identity.data:
            LOG.info("'%s' is finished already; nothing to do", folder / FILE_NAME)
            return done

    model = place(build_model(cfg, len(files), num_classes(files)), cfg, device)
    optimizer = build_optimizer(cfg, model)
    scaler = GradScaler(device.type, enabled=cfg.SOLVER.AMP == "fp16")
    state = TrainState()
    if resume_from is not None:
        state = snapshot.restore(resume_from, model, optimizer, scaler, identity)
        LOG.info("resumed '%s' at iteration %d", resume_from, state.iteration)

    batches = build_batches(cfg, files, state.iteration)
    plan = build_plan(cfg, batches)
    monitor, knn = build_monitor(cfg, model), build_knn(cfg, device)
    dataset = build_dataset(cfg, files)
    writer = prepare(folder, cfg, state.iteration) if dist.is_main() else None
    LOG.info("%d images, %d iterations, %d in an epoch", len(files), plan.iterations, plan.per_epoch)
    for line in description(cfg, device):
        LOG.info(line)
    for line in cautions(cfg, plan):
        LOG.warning(line)

    def epoch_ended(epochs: int) -> None:
        if knn is not None and epochs % cfg.KNN.PERIOD == 0:
            scores = knn(model.get_submodule("encoder_q"))
            when = f"after epoch {epochs}" if epochs else "before training"
            LOG.info("kNN %s: acc1 %.2f%%, acc5 %.2f%%", when, scores["knn/acc1"], scores["knn/acc5"])
            if writer is not None:
                writer.write(max(0, state.iteration - 1), **scores)

    def save(state: TrainState) -> None:
        epochs, rest = divmod(state.iteration, plan.per_epoch)
        contents = snapshot.capture(model, optimizer, scaler, state, epochs, identity)
        keep = cfg.CHECKPOINT.KEEP_EVERY_EPOCHS
        if dist.is_main():
            checkpoint.save(contents, folder / snapshot.LAST)
            if keep and rest == 0 and epochs % keep == 0:
                checkpoint.save(contents, folder / snapshot.epoch_name(epochs - 1))

    try:
        if state.iteration == 0:
            epoch_ended(0)  # what the training is to be measured against: the same trunk, untrained
        train(
            data_parallel(model, device),
            optimizer,
            load(cfg, dataset, batches, device),
            state,
            plan,
            device=device,
            writer=writer,
            save=save,
            epoch_ended=epoch_ended,
            scaler=scaler,
            memory_format=memory_format(cfg),
            monitor=monitor,
        )
    finally:
        if writer is not None:
            writer.close()
    return _result(cfg, folder, identity, files, state, plan, device)


def _weights_sha256(path: str) -> str | None:
    if not path:
        return None
    try:
        return file_sha256(path)
    except OSError as error:
        raise ConfigError(f"MODEL.WEIGHTS '{path}' cannot be read ({error.strerror}); check the path") from error


def _digest(cfg: CfgNode) -> str:
    return config_digest(cfg, exclude=RUNTIME_KEYS)


def _result(
    cfg: CfgNode,
    folder: Path,
    identity: snapshot.Identity,
    files: Images,
    state: TrainState,
    plan: Plan,
    device: torch.device,
) -> RunResult:
    means = state.epoch.over_processes()
    skipped = sum(dist.gather_objects(state.skipped))
    result = RunResult(
        kind="pretrain",
        engine="pretrain",
        seed=cfg.SEED,
        config_digest=_digest(cfg),
        weights_sha256=identity.weights_sha256,
        metrics={**means, "images_per_second": rate(state, plan), "skipped": float(skipped)},
        iterations=state.iteration,
        seconds=state.seconds,
        notes=[
            f"{' and '.join(means)} are means over the last epoch of {plan.per_epoch} iterations",
            *description(cfg, device),
            *cautions(cfg, plan),
            f"unreadable images replaced: {skipped} (DATA.ON_BAD_IMAGE {cfg.DATA.ON_BAD_IMAGE})",
            *files.notes,
        ],
        artifacts={"checkpoint": snapshot.LAST, "config": "config.yaml", "metrics": "metrics.jsonl"},
        inputs=named_inputs(config=_digest(cfg), data=identity.data, weights=identity.weights_sha256),
        provenance=environment(device.type),
        extra={
            "arch": cfg.MODEL.ARCH,
            "mechanism": cfg.MODEL.MECHANISM,
            "images": len(files),
            "classes": num_classes(files),
            "data_digest": identity.data,
        },
    )
    if dist.is_main():
        result.save(folder)
    dist.barrier()
    return result
