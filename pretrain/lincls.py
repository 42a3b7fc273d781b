"""Linear classification on a frozen trunk, by the papers' protocol (arXiv:1911.05722, section 4.1).

One fully connected layer and softmax on globally average-pooled features. The trunk is in eval mode throughout, and
proven unchanged, BN statistics included, before every checkpoint and at the end. Training is `loop.train`, whose call
the probe understands: an iteration, its metrics, checkpoints and signals are those of pre-training.

Shape shorthand:
    N: images of this process   C: length of a feature
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain import lincls_snapshot
from pretrain.augment import OneCrop
from pretrain.build import data_parallel, memory_format, num_workers
from pretrain.data import MAX_REPLACEMENTS, Batch, TrainingBatches, ViewDataset, build_loader
from pretrain.features import Features, extract
from pretrain.images import ImageFiles
from pretrain.labelled import augmented_view, central_view, find_pair, top_k_hits
from pretrain.lincls_config import RUNTIME_KEYS, check
from pretrain.lincls_snapshot import Identity, Validation
from pretrain.loop import Plan, TrainState, rate, train
from pretrain.mechanisms.base import AMP
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.alone import alone_in
from pretrain.runtime.provenance import config_digest, environment
from pretrain.runtime.result import RunResult
from pretrain.runtime.seed import derive, seed_everything
from pretrain.schedule import by_name
from pretrain.session import Resume, finished, prepare, resume_point, session
from pretrain.snapshot import LAST
from pretrain.trunk import FrozenTrunk, load_trunk

LOG = logging.getLogger(__name__)

FEATURES = "features"  # folder, inside that of the run


class LinearProbe(nn.Module):
    """A frozen trunk and a classifier, called as `loop.train` calls a mechanism.

    Args:
        trunk: N x 3 x H x W -> N x C.
        num_classes: outputs of `fc`, whose weights start as N(0, 0.01) and whose biases as 0.
        labels: (n,) int64, of the whole training set.
        seed: of the weights.
    """

    labels: Tensor

    def __init__(self, trunk: FrozenTrunk, num_classes: int, labels: Tensor, seed: int = 0):
        super().__init__()
        self.trunk, self.fc = trunk, nn.Linear(trunk.dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01, generator=torch.Generator().manual_seed(derive(seed, 0)))
        nn.init.zeros_(self.fc.bias)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, inputs: Tensor, numbers: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Logits (N/parts x classes) and labels (N/parts); the gradient reaches `fc` only.

        Args:
            inputs: images, N/parts x 3 x H x W, or their features, N/parts x C.
            numbers: N: which images of the training set those of the whole step are.
            part, parts: which micro-batch this is, of how many.
        """
        features = self.trunk(inputs) if inputs.ndim == 4 else inputs
        return self.fc(features), self.labels[numbers.chunk(parts)[part]]


def feature_batches(features: Features, batches: TrainingBatches) -> Iterator[Batch]:
    """What a loader would give if the trunk were the identity: features instead of views."""
    for pairs in batches:
        numbers = [index for _, index in pairs]
        yield Batch((features.rows(numbers),), [], torch.tensor(numbers))


@torch.no_grad()
def evaluate(fc: nn.Linear, val: Features, device: torch.device, chunk: int = 4096) -> dict[str, float]:
    """Scores of a classifier of features: {"acc1", "acc5" (percent), "loss" (mean cross-entropy)}."""
    sums = torch.zeros(3, dtype=torch.float64)
    for first in range(0, len(val), chunk):
        logits = fc(val.rows(slice(first, first + chunk)).to(device))  # n x classes
        labels = torch.from_numpy(val.labels[first : first + chunk]).to(device)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.cat([top_k_hits(logits, labels).sum(0), loss.unsqueeze(0)]).double().cpu()
    acc1, acc5, loss = (sums / len(val)).tolist()
    return {"acc1": 100 * acc1, "acc5": 100 * acc5, "loss": loss}


def main(cfg: CfgNode, resume: Resume = "no") -> RunResult:
    """Trains a linear probe; leaves checkpoint_last.pth.tar, metrics.jsonl, config.yaml, result.json and features.

    Under `torchrun` every process calls this; it joins the process group and leaves it again.

    Args:
        cfg: see `pretrain.lincls_config`.
        resume: see `session.resume_point`; with "yes" and "auto" a finished probe is returned, not repeated.

    Returns:
        Kind "linear"; metrics acc1 and acc5 on the validation set after the last epoch, and best_acc1 over epochs.

    Raises:
        ConfigError: config, data or folder cannot be used, or the checkpoint belongs to another run.
        LockError: another run works in the folder.
        CheckpointError: MODEL.WEIGHTS or the checkpoint cannot be used.
        BadImageError, DivergedError, Preempted: see `loop.train`.
        TrunkChangedError: the trunk did not stay frozen.
        ValueError: another `resume`.
    """
    with session(cfg.DEVICE) as device:
        check(cfg, dist.world_size())
        with alone_in(cfg.OUTPUT_DIR):
            return _run(cfg, resume, device)


def _run(cfg: CfgNode, resume: Resume, device: torch.device) -> RunResult:
    folder = Path(cfg.OUTPUT_DIR)
    train_set, val_set = find_pair(cfg.DATA.TRAIN, cfg.DATA.VAL)
    resume_from = resume_point(folder / LAST, resume)
    network, arch = load_trunk(cfg.MODEL.WEIGHTS, cfg.MODEL.ARCH)
    result = RunResult(
        kind="linear",
        engine="pretrain",
        seed=cfg.SEED,
        config_digest=config_digest(cfg, exclude=RUNTIME_KEYS),
        weights_sha256=checkpoint.sha256(cfg.MODEL.WEIGHTS),
        extra={
            "arch": arch,
            "data_digests": [train_set.digest(), val_set.digest()],
            "images": {"train": len(train_set), "val": len(val_set)},
            "classes": len(train_set.classes),
        },
    )
    if resume != "no" and (done := _finished(folder, result)):
        LOG.info("'%s' holds this probe, finished; nothing to do", folder)
        return done

    seed_everything(cfg.SEED)
    trunk = FrozenTrunk(network, AMP[cfg.SOLVER.AMP])
    labels = torch.from_numpy(train_set.labels)
    probe = LinearProbe(trunk, len(train_set.classes), labels, cfg.SEED).to(device)
    probe = probe.to(memory_format=memory_format(cfg))
    optimizer = torch.optim.SGD(
        probe.fc.parameters(), cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, weight_decay=cfg.SOLVER.WEIGHT_DECAY
    )
    identity = Identity(cfg, result.extra["data_digests"], trunk.sha256, arch)
    state, validation = TrainState(), Validation()
    if resume_from is not None:
        state, validation = lincls_snapshot.restore(resume_from, probe.fc, optimizer, identity)
        LOG.info("resumed '%s' at iteration %d", resume_from, state.iteration)

    batches = TrainingBatches(
        *(len(train_set), cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.EPOCHS, cfg.SEED, state.iteration),
        *(dist.rank(), dist.world_size()),
    )
    plan = _plan(cfg, batches)
    writer = prepare(folder, cfg, state.iteration) if dist.is_main() else None
    common: dict[str, Any] = {"num_workers": num_workers(cfg), "device": device, "memory_format": memory_format(cfg)}
    common |= {"trunk_sha256": trunk.sha256, "batch_size": cfg.SOLVER.BATCH_SIZE, "arithmetic": cfg.SOLVER.AMP}
    view = central_view(cfg.AUG.RESIZE, cfg.AUG.CROP_SIZE)
    lines = [*_description(cfg, trunk, arch, len(train_set.classes)), *train_set.files.notes, *val_set.files.notes]
    for line in lines:
        LOG.info(line)

    def save(state: TrainState) -> None:
        trunk.verify()
        epochs, rest = divmod(state.iteration, plan.per_epoch)
        if rest == 0:
            scores = evaluate(probe.fc, val, device)
            vars(validation).update(scores, best_acc1=max(validation.best_acc1, scores["acc1"]))
            LOG.info("validation after epoch %d: acc1 %.2f%%, acc5 %.2f%%", epochs, scores["acc1"], scores["acc5"])
            if writer is not None:
                writer.write(state.iteration - 1, **{f"val/{name}": value for name, value in scores.items()})
        contents = lincls_snapshot.capture(trunk, probe.fc, optimizer, state, validation, epochs, identity)
        if dist.is_main():
            checkpoint.save(contents, folder / LAST)

    try:
        val = extract(trunk, val_set, view, folder / FEATURES, "val", **common)
        source: Iterable[Batch]
        if cfg.AUG.TRAIN:
            source = _view_batches(cfg, train_set.files, batches, device)
        else:
            source = feature_batches(extract(trunk, train_set, view, folder / FEATURES, "train", **common), batches)
        train(
            *(data_parallel(probe, device), optimizer, source, state, plan),
            device=device,
            writer=writer,
            save=save,
            memory_format=common["memory_format"],
            name="linear probe",
        )
    finally:
        if writer is not None:
            writer.close()
    trunk.verify()
    return _finish(result, folder, state, validation, plan, trunk, device, lines)


def _finished(folder: Path, result: RunResult) -> RunResult | None:
    keys = ("kind", "config_digest", "seed", "weights_sha256")
    done = finished(folder, **{key: getattr(result, key) for key in keys})
    return done if done and done.extra.get("data_digests") == result.extra["data_digests"] else None


def _view_batches(cfg: CfgNode, files: ImageFiles, batches: TrainingBatches, device: torch.device) -> Iterable[Batch]:
    views = OneCrop(augmented_view(cfg.AUG.CROP_SIZE, cfg.AUG.SCALE))
    dataset = ViewDataset(files, views, cfg.SEED, MAX_REPLACEMENTS if cfg.DATA.ON_BAD_IMAGE == "skip" else 0)
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


def _description(cfg: CfgNode, trunk: FrozenTrunk, arch: str, num_classes: int) -> list[str]:
    """What follows from config and checkpoint, line by line, for the log and the result."""
    aug, solver = cfg.AUG, cfg.SOLVER
    crop = f"random crops of {aug.CROP_SIZE} pixels, area {aug.SCALE[0]:g} to {aug.SCALE[1]:g}, and flips"
    return [
        f"{arch}: {len(trunk.network.state_dict())} tensors, frozen; fc: {trunk.dim} x {num_classes}",
        f"training on {crop if aug.TRAIN else 'central crops, every feature computed once'}",
        f"validation on the central {aug.CROP_SIZE} pixels of images resized to {aug.RESIZE}",
        f"arithmetic of the trunk: {solver.AMP.replace('off', 'float32')}; processes: {dist.world_size()}",
    ]


def _finish(
    result: RunResult,
    folder: Path,
    state: TrainState,
    validation: Validation,
    plan: Plan,
    trunk: FrozenTrunk,
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
        f"trunk and BN statistics unchanged: SHA-256 {trunk.sha256} before and after",
    ]
    result.artifacts = {"checkpoint": LAST, "config": "config.yaml", "metrics": "metrics.jsonl", "features": FEATURES}
    result.provenance = environment(device.type)
    result.extra["trunk_sha256"] = trunk.sha256
    if dist.is_main():
        result.save(folder)
    dist.barrier()
    return result
