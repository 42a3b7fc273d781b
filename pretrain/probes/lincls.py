"""Trains a classifier on a trunk: a linear probe of a frozen one, or fine-tuning of a free one (MODEL.TRUNK).

A frozen trunk follows the papers' protocol (arXiv:1911.05722, section 4.1): one fully connected layer and softmax on
globally average-pooled features. The trunk is in eval mode throughout, and is proven unchanged, BN statistics included,
before every checkpoint and at the end. With a free trunk everything is trained, BN with the statistics of each
process's images, and validation is in eval mode. The training is `loop.train`, which can call a classifier like a
mechanism: an iteration, its metrics, checkpoints and signals are those of pre-training.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.amp import GradScaler

from pretrain.build import data_parallel, memory_format, num_workers
from pretrain.data.augment import OneCrop
from pretrain.data.labelled import LabelledImages, augmented_view, central_view, find_pair
from pretrain.data.views import MAX_REPLACEMENTS, Batch, TrainingBatches, ViewDataset, build_loader
from pretrain.encoders import base_encoder
from pretrain.loop import Plan, TrainState, rate, train
from pretrain.mechanisms.base import AMP
from pretrain.probes import cautions, classifier_checkpoint
from pretrain.probes.classifier import Classifier, evaluate, feature_batches
from pretrain.probes.classifier_checkpoint import Identity, Validation
from pretrain.probes.config import RUNTIME_KEYS, check, is_free, with_sizes
from pretrain.probes.features import extract, forward
from pretrain.probes.trunk import FreeTrunk, FrozenTrunk, evaluating, load_trunk
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.alone import alone_in
from pretrain.runtime.precision import in_words
from pretrain.runtime.provenance import config_digest, environment, file_sha256
from pretrain.runtime.result import RunResult, named_inputs
from pretrain.runtime.seed import seed_everything
from pretrain.schedule import by_name
from pretrain.session import Resume, finished, prepare, resume_point, session
from pretrain.snapshot import LAST

LOG = logging.getLogger(__name__)

FEATURES = "features"  # folder, inside that of the run, of a frozen trunk


def main(cfg: CfgNode, resume: Resume = "no") -> RunResult:
    """Trains a classifier; writes checkpoint_last.pth.tar, metrics.jsonl, config.yaml, result.json, perhaps features.

    Under `torchrun` every process calls this; it joins the process group and leaves it again.

    Args:
        cfg: see `pretrain.probes.config`.
        resume: see `session.resume_point`; with "yes" and "auto" a finished run is returned, not repeated.

    Returns:
        A result of kind "linear" (frozen) or "finetune" (free), with the metrics acc1 and acc5 on the validation set
        after the last epoch, and best_acc1 over epochs.

    Raises:
        ConfigError: the config, data or folder cannot be used, or the checkpoint belongs to another run.
        LockError: another run works in the folder.
        CheckpointError: MODEL.WEIGHTS or the checkpoint cannot be used.
        BadImageError, DivergedError, Preempted: see `loop.train`.
        TrunkChangedError: a frozen trunk has changed.
        ValueError: `resume` has another value.
    """
    with session(cfg.DEVICE) as device:
        check(cfg, dist.world_size())
        with alone_in(cfg.OUTPUT_DIR):
            return _run(with_sizes(cfg), resume, device)


def _run(cfg: CfgNode, resume: Resume, device: torch.device) -> RunResult:
    folder = Path(cfg.OUTPUT_DIR)
    train_set, val_set = find_pair(cfg.DATA.TRAIN, cfg.DATA.VAL)
    resume_from = resume_point(folder / LAST, resume)
    seed_everything(cfg.SEED)
    network, arch = _network(cfg)
    weights = file_sha256(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    result = RunResult(
        kind="finetune" if is_free(cfg) else "linear",
        engine="pretrain",
        seed=cfg.SEED,
        config_digest=config_digest(cfg, exclude=RUNTIME_KEYS),
        weights_sha256=weights,
        inputs=named_inputs(weights=weights, train=train_set.digest(), val=val_set.digest()),
        extra={
            "arch": arch,
            "data_digests": [train_set.digest(), val_set.digest()],
            "images": {"train": len(train_set), "val": len(val_set)},
            "classes": len(train_set.classes),
        },
    )
    if resume != "no" and (done := _finished(folder, result)):
        LOG.info("'%s' holds this run, finished; nothing to do", folder)
        return done

    trunk = (FreeTrunk if is_free(cfg) else FrozenTrunk)(network, AMP[cfg.SOLVER.AMP])
    classifier = Classifier(trunk, len(train_set.classes), cfg.SEED).to(device).to(memory_format=memory_format(cfg))
    solver = cfg.SOLVER
    optimizer = torch.optim.SGD(
        classifier.trained(), solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY
    )
    scaler = GradScaler(device.type, enabled=is_free(cfg) and solver.AMP == "fp16")
    identity = Identity(cfg, result.extra["data_digests"], trunk.sha256, arch)
    state, validation = TrainState(), Validation()
    if resume_from is not None:
        state, validation = classifier_checkpoint.restore(resume_from, classifier, optimizer, scaler, identity)
        LOG.info("resumed '%s' at iteration %d", resume_from, state.iteration)

    batches = TrainingBatches(
        *(len(train_set), solver.BATCH_SIZE, solver.EPOCHS, cfg.SEED, state.iteration),
        *(dist.rank(), dist.world_size()),
    )
    plan = _plan(cfg, batches)
    writer = prepare(folder, cfg, state.iteration) if dist.is_main() else None
    lines = [
        *_description(cfg, trunk, arch, len(train_set.classes), device),
        *train_set.files.notes,
        *val_set.files.notes,
    ]
    for line in lines:
        LOG.info(line)
    for line in cautions.at_start(cfg):
        LOG.warning(line)
        lines.append(line)

    def save(state: TrainState) -> None:
        _verify(trunk)
        epochs = state.iteration // plan.per_epoch
        contents = classifier_checkpoint.capture(classifier, optimizer, scaler, state, validation, epochs, identity)
        if dist.is_main():
            checkpoint.save(contents, folder / LAST)

    warned = False  # of a loss far above chance: once is enough
    try:
        source, features_of_val = _inputs(cfg, trunk, train_set, val_set, batches, device)

        def epoch_ended(epochs: int) -> None:
            scores = evaluate(classifier.fc, features_of_val(), val_set.labels, device)
            nonlocal warned
            validation.update(**scores)
            LOG.info("validation after epoch %d: acc1 %.2f%%, acc5 %.2f%%", epochs, scores["acc1"], scores["acc5"])
            for line in cautions.worse_than_chance(validation.loss, len(val_set.classes)) if not warned else ():
                LOG.warning(line)
                warned = True
            if writer is not None:
                writer.write(state.iteration - 1, **{f"val/{name}": value for name, value in scores.items()})

        if is_free(cfg) and state.iteration == 0:
            for _ in features_of_val():  # an image that cannot be read ends the run now, not after the first epoch
                pass
        train(
            *(data_parallel(classifier, device), optimizer, source, state, plan),
            device=device,
            writer=writer,
            save=save,
            epoch_ended=epoch_ended,
            scaler=scaler,
            memory_format=memory_format(cfg),
            name="fine-tuning" if is_free(cfg) else "linear probe",
        )
    finally:
        if writer is not None:
            writer.close()
    _verify(trunk)
    lines += cautions.worse_than_chance(validation.loss, len(val_set.classes))
    return _finish(result, folder, state, validation, plan, trunk, device, lines)


def _network(cfg: CfgNode) -> tuple[nn.Module, str]:
    """Returns the ResNet on the CPU, with a meaningless `fc`, and its architecture."""
    if cfg.MODEL.WEIGHTS:
        return load_trunk(cfg.MODEL.WEIGHTS, cfg.MODEL.ARCH)
    return base_encoder(cfg.MODEL.ARCH)(num_classes=1), cfg.MODEL.ARCH


def _finished(folder: Path, result: RunResult) -> RunResult | None:
    keys = ("kind", "config_digest", "seed", "weights_sha256")
    done = finished(folder, **{key: getattr(result, key) for key in keys})
    return done if done and done.extra.get("data_digests") == result.extra["data_digests"] else None


def _verify(trunk: FreeTrunk) -> None:
    if isinstance(trunk, FrozenTrunk):
        trunk.verify()


def _inputs(
    cfg: CfgNode,
    trunk: FreeTrunk,
    train_set: LabelledImages,
    val_set: LabelledImages,
    batches: TrainingBatches,
    device: torch.device,
) -> tuple[Iterable[Batch], Callable[[], Iterator[Tensor]]]:
    """Returns the training batches, and a function that gives the validation set's features, n x C at a time.

    A frozen trunk's features of views that never change are computed here, once; a free trunk computes them at each
    call.
    """
    view, folder = central_view(cfg.AUG.RESIZE, cfg.AUG.CROP_SIZE), Path(cfg.OUTPUT_DIR) / FEATURES
    common: dict[str, Any] = {"num_workers": num_workers(cfg), "device": device, "memory_format": memory_format(cfg)}
    common |= {"batch_size": cfg.SOLVER.BATCH_SIZE}
    if isinstance(trunk, FrozenTrunk):
        files = common | {"trunk_sha256": trunk.sha256, "arithmetic": cfg.SOLVER.AMP}
        val = extract(trunk, val_set, view, folder, "val", **files)
        if not cfg.AUG.TRAIN:
            return feature_batches(extract(trunk, train_set, view, folder, "train", **files), batches), val.chunks
        return _view_batches(cfg, train_set, batches, device), val.chunks

    def anew() -> Iterator[Tensor]:
        with evaluating(trunk):
            yield from forward(trunk, val_set, view, **common, name="validation")

    return _view_batches(cfg, train_set, batches, device), anew


def _view_batches(
    cfg: CfgNode, images: LabelledImages, batches: TrainingBatches, device: torch.device
) -> Iterable[Batch]:
    views = OneCrop(augmented_view(cfg.AUG.CROP_SIZE, cfg.AUG.SCALE))
    replacements = MAX_REPLACEMENTS if cfg.DATA.ON_BAD_IMAGE == "skip" else 0
    dataset = ViewDataset(images.files, views, cfg.SEED, replacements, labels=images.labels)
    return build_loader(dataset, batches, num_workers(cfg), pin_memory=device.type == "cuda")


def _plan(cfg: CfgNode, batches: TrainingBatches) -> Plan:
    solver = cfg.SOLVER
    schedule = {"base_lr": solver.BASE_LR, "epochs": solver.EPOCHS, "steps": solver.STEPS, "gamma": solver.GAMMA}
    return Plan(
        batch_size=solver.BATCH_SIZE,
        per_epoch=batches.per_epoch,
        iterations=batches.iterations,
        learning_rate=by_name("step", **schedule, per_epoch=batches.per_epoch),
        log_period=cfg.LOG_PERIOD,
        checkpoint_period=cfg.CHECKPOINT.PERIOD,
        checkpoint_seconds=cfg.CHECKPOINT.PERIOD_SECONDS,
    )


def _description(cfg: CfgNode, trunk: FreeTrunk, arch: str, num_classes: int, device: torch.device) -> list[str]:
    """Returns the lines for log and result that say what follows from the config and the checkpoint."""
    aug, solver = cfg.AUG, cfg.SOLVER
    crop = f"random crops of {aug.CROP_SIZE} pixels, area {aug.SCALE[0]:g} to {aug.SCALE[1]:g}, and flips"
    lines = [
        f"{arch}: {len(trunk.network.state_dict())} tensors, {cfg.MODEL.TRUNK}; fc: {trunk.dim} x {num_classes}",
        f"training on {crop if aug.TRAIN else 'central crops, every feature computed once'}",
        f"validation on the central {aug.CROP_SIZE} pixels of images resized to {aug.RESIZE}",
        f"arithmetic of the trunk: {in_words(solver.AMP, device.type)}; processes: {dist.world_size()}",
    ]
    if is_free(cfg):
        lines.append(f"BN: statistics of {solver.BATCH_SIZE // dist.world_size()} images while training")
    if not cfg.MODEL.WEIGHTS:
        lines.append(f"from scratch: no pre-trained weights, every tensor starts as SEED {cfg.SEED} draws it")
    return lines


def _finish(
    result: RunResult,
    folder: Path,
    state: TrainState,
    validation: Validation,
    plan: Plan,
    trunk: FreeTrunk,
    device: torch.device,
    lines: list[str],
) -> RunResult:
    means = state.epoch.over_processes()
    skipped = sum(dist.gather_objects(state.skipped))
    scores = dataclasses.asdict(validation)
    result.metrics = {name: scores[name] for name in ("acc1", "acc5", "best_acc1")}
    result.metrics |= {"val_loss": validation.loss, "train_loss": means["loss"], "train_acc1": means["acc1"]}
    result.metrics |= {"images_per_second": rate(state, plan), "skipped": float(skipped)}
    result.iterations, result.seconds = state.iteration, state.seconds
    result.notes = [
        f"acc1 and acc5 (percent) are those after the last of {plan.epochs} epochs; best_acc1 chose among all of them",
        *lines,
    ]
    result.artifacts = {"checkpoint": LAST, "config": "config.yaml", "metrics": "metrics.jsonl"}
    if isinstance(trunk, FrozenTrunk):
        result.notes.append(f"trunk and BN statistics unchanged: SHA-256 {trunk.sha256} before and after")
        result.artifacts["features"] = FEATURES
    result.provenance = environment(device.type)
    result.extra["trunk_sha256"] = trunk.sha256
    if dist.is_main():
        result.save(folder)
    dist.barrier()
    return result
