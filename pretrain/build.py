"""Builds the parts of a run from config keys: the model, the data, the plan, and the description for the log."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import snapshot
from pretrain.config import bn_groups
from pretrain.data.augment import recipe
from pretrain.data.cache import DecodedImages
from pretrain.data.decode import BadImageError, decode, decode_array
from pretrain.data.device_augment import CropRecipe, finished
from pretrain.data.fast_augment import FastRecipe
from pretrain.data.images import Images
from pretrain.data.labelled import LabelledImages, central_view, find_pair
from pretrain.data.order import ShuffledShards
from pretrain.data.shards import Shards
from pretrain.data.views import MAX_REPLACEMENTS, Batch, TrainingBatches, ViewDataset, build_loader
from pretrain.encoders import base_encoder
from pretrain.loop import Plan
from pretrain.mechanisms import MECHANISMS, Mechanism
from pretrain.mechanisms.base import Monitor, Size
from pretrain.optimizers import OPTIMIZERS
from pretrain.probes.knn import KnnProbe
from pretrain.probes.view_size import resize_for, shown_share
from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.precision import in_words
from pretrain.runtime.seed import seed_everything
from pretrain.runtime.workers import loader_processes
from pretrain.schedule import by_name, linear_scaling, never_steps

LOG = logging.getLogger(__name__)


def mechanism(cfg: CfgNode) -> Mechanism:
    return MECHANISMS[cfg.MODEL.MECHANISM]


def build_model(cfg: CfgNode, num_images: int = 0, num_classes: int = 0) -> nn.Module:
    """Returns the mechanism on the CPU, equal in all processes: drawn from SEED, then given MODEL.WEIGHTS if it is set.

    Args:
        num_images, num_classes: size of the training set. A memory bank has a row per image, a supervised classifier an
            output per class; the other mechanisms need neither.

    Raises:
        ConfigError: MODEL.ARCH is unknown, or there are more negatives than rows of the bank.
        CheckpointError: MODEL.WEIGHTS cannot be used.
    """
    seed_everything(cfg.SEED)
    m = cfg.MODEL
    model = mechanism(cfg).build(cfg, base_encoder(m.ARCH, m.BN_GROUPS, m.SYNC_BN), Size(num_images, num_classes))
    if m.WEIGHTS:
        snapshot.load_weights(m.WEIGHTS, model)
    return model


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer of all parameters in the reference's order, with those of the key encoder (no gradient)."""
    solver = cfg.SOLVER
    make = OPTIMIZERS[solver.OPTIMIZER]
    return make(model.parameters(), solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY)


def place(model: nn.Module, cfg: CfgNode, device: torch.device) -> nn.Module:
    """Moves the model to its device and memory format, and compiles it if the config says so; names do not change."""
    model = model.to(device).to(memory_format=memory_format(cfg))
    if cfg.SPEED.COMPILE:
        for name, encoder in model.named_children():
            assert name.startswith("encoder_")
            encoder.compile()
    return model


def memory_format(cfg: CfgNode) -> torch.memory_format:
    return torch.channels_last if cfg.SPEED.CHANNELS_LAST else torch.contiguous_format


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Wraps the model in DistributedDataParallel if there are several processes; else returns `model` itself.

    Buffers are not broadcast: queue and bank are equal in all processes by construction, and BN statistics in training
    are each process's own. (The reference broadcasts them from rank 0, 32 MB of queue per iteration; rank 0, whose
    state is saved, ends with the same values either way.)
    """
    if dist.world_size() == 1:
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in newer torch
    no_sync: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None, **no_sync)


def build_dataset(cfg: CfgNode, files: Images) -> ViewDataset:
    """Returns the data set of views; with DATA.CACHE, the images are decoded here and their pixels kept in memory.

    Raises:
        ConfigError: the pixels need more memory than DATA.CACHE.
        BadImageError: with DATA.CACHE, an image cannot be read and is not to be skipped.
    """
    makers: dict[str, Callable[..., Any]] = {"opencv": FastRecipe, "pil": recipe, "gpu": CropRecipe}
    arrays = cfg.AUG.BACKEND != "pil"
    decoder: Callable[[bytes, str], Any] = decode_array if arrays else decode
    view = makers[cfg.AUG.BACKEND](cfg.AUG.RECIPE, cfg.AUG.CROP_SIZE, cfg.AUG.SCALE)
    replacements = MAX_REPLACEMENTS if cfg.DATA.ON_BAD_IMAGE == "skip" else 0
    labels = files.labels if isinstance(files, LabelledImages) else None
    cache = None
    if cfg.DATA.CACHE:
        cache = DecodedImages(files, decoder, np.asarray if arrays else Image.fromarray, cfg.DATA.CACHE)
        if cache.bad and not replacements:
            raise BadImageError(f"{next(iter(cache.bad.values()))}; remove it, or set DATA.ON_BAD_IMAGE skip")
    return ViewDataset(files, mechanism(cfg).views(view), cfg.SEED, replacements, decoder, labels, cache)


def num_classes(files: Images) -> int:
    """Returns the number of classes of a training set whose labels are read, else 0."""
    return len(files.classes) if isinstance(files, LabelledImages) else 0


def build_batches(cfg: CfgNode, files: Images, start: int) -> TrainingBatches:
    solver = cfg.SOLVER
    order = ShuffledShards(files.counts, cfg.SEED, cfg.DATA.SHUFFLE_SHARDS) if isinstance(files, Shards) else None
    return TrainingBatches(
        *(len(files), solver.BATCH_SIZE, solver.EPOCHS, cfg.SEED, start, dist.rank(), dist.world_size()),
        iterations=solver.ITERATIONS,
        order=order,
    )


def load(cfg: CfgNode, dataset: ViewDataset, batches: TrainingBatches, device: torch.device) -> Iterable[Batch]:
    """Returns the batches, loaded ahead. With AUG.BACKEND gpu their views are finished there, and lie on the device."""
    loader = build_loader(dataset, batches, num_workers(cfg), pin_memory=device.type == "cuda")
    return finished(loader, device) if cfg.AUG.BACKEND == "gpu" else loader


def build_plan(cfg: CfgNode, batches: TrainingBatches) -> Plan:
    solver = cfg.SOLVER
    return Plan(
        batch_size=solver.BATCH_SIZE,
        per_epoch=batches.per_epoch,
        iterations=batches.iterations,
        learning_rate=by_name(
            solver.SCHEDULE,
            base_lr=linear_scaling(solver.BASE_LR, solver.BATCH_SIZE, solver.REFERENCE_BATCH),
            epochs=solver.EPOCHS,
            steps=solver.STEPS,
            gamma=solver.GAMMA,
            period=solver.PERIOD,
            per_epoch=batches.per_epoch,
            warmup=solver.WARMUP_EPOCHS,
        ),
        score=mechanism(cfg).score(cfg),
        accumulate=solver.ACCUMULATE,
        log_period=cfg.LOG_PERIOD,
        checkpoint_period=cfg.CHECKPOINT.PERIOD,
        checkpoint_seconds=cfg.CHECKPOINT.PERIOD_SECONDS,
    )


def num_workers(cfg: CfgNode) -> int:
    """Returns the number of loader processes of this training process."""
    return loader_processes(cfg.DATA.NUM_WORKERS)


def description(cfg: CfgNode, device: torch.device) -> list[str]:
    """Returns the lines for log and result that say what follows from the config and the number of processes."""
    model, solver, world = cfg.MODEL, cfg.SOLVER, dist.world_size()
    groups = bn_groups(cfg, world)
    rate = linear_scaling(solver.BASE_LR, solver.BATCH_SIZE, solver.REFERENCE_BATCH)
    scaled = f" = {solver.BASE_LR:g} x {solver.BATCH_SIZE} / {solver.REFERENCE_BATCH}" if solver.REFERENCE_BATCH else ""
    per_process, per_part = solver.BATCH_SIZE // world, solver.BATCH_SIZE // world // solver.ACCUMULATE
    how = f"{solver.SCHEDULE}, {solver.WARMUP_EPOCHS} epochs of warm-up" if solver.WARMUP_EPOCHS else solver.SCHEDULE
    how += f", {solver.OPTIMIZER}" if solver.OPTIMIZER != "sgd" else ""
    layout = f"BN groups: {groups} of {solver.BATCH_SIZE // groups} images"
    if model.SYNC_BN:
        layout = f"BN synchronised: {solver.ACCUMULATE} x {per_part * world} images"
    lines = [
        f"{model.MECHANISM}: acc1 (percent) is that of {mechanism(cfg).pretext(cfg)}",
        f"processes: {world} on {device.type}; {layout}",
        f"batch: {solver.BATCH_SIZE} = {world} processes x {solver.ACCUMULATE} micro-batches x {per_part} images",
        f"learning rate: {rate:g}{scaled}, {how}; arithmetic: {in_words(solver.AMP, device.type)}",
        f"loader processes: {num_workers(cfg)} for {per_process} images in each of {world} processes",
    ]
    if cfg.DATA.CACHE:
        lines.append("images: decoded once and kept in memory (DATA.CACHE)")
    if unread := mechanism(cfg).no_effect:
        lines.append(f"without effect on {model.MECHANISM}: {', '.join(unread)}")
    return lines


def cautions(cfg: CfgNode, plan: Plan) -> list[str]:
    """Returns what may make a run other than it was meant, for log and result."""
    stepping = cfg.SOLVER.STEPS if cfg.SOLVER.SCHEDULE == "step" else ()
    return [*mechanism(cfg).cautions(cfg, plan.iterations), *never_steps(stepping, plan.epochs)]


def build_monitor(cfg: CfgNode, model: nn.Module) -> Monitor | None:
    make = mechanism(cfg).monitor
    return make(model, cfg.SOLVER.BATCH_SIZE) if make else None


def build_knn(cfg: CfgNode, device: torch.device) -> KnnProbe | None:
    """Returns the kNN evaluation that a run makes every KNN.PERIOD epochs, or None if KNN.PERIOD is 0.

    Raises:
        ConfigError: the folders hold no labelled images, or fewer of them than neighbours are asked for.
    """
    if not cfg.KNN.PERIOD:
        return None
    bank, queries = find_pair(cfg.KNN.TRAIN, cfg.KNN.VAL, ("KNN.TRAIN", "KNN.VAL"))
    bank, crop = bank.subset(cfg.KNN.TRAIN_IMAGES), cfg.AUG.CROP_SIZE
    resize = cfg.KNN.RESIZE or resize_for(crop)
    for line in shown_share(resize, crop):
        LOG.warning("KNN.RESIZE: %s", line)
    view = central_view(resize, crop)
    if cfg.KNN.K > len(bank):
        raise ConfigError(f"KNN.K is {cfg.KNN.K}, but only {len(bank)} labelled images are there to be neighbours")
    folder, size, workers = Path(cfg.OUTPUT_DIR) / "knn", cfg.SOLVER.BATCH_SIZE, num_workers(cfg)
    return KnnProbe(bank, queries, view, folder, size, workers, device, cfg.KNN.K, cfg.KNN.T)
