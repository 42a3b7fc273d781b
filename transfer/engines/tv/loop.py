"""Runs the iterations: steps, logs, checkpoints, precise batch norm; any checkpoint resumes, bit for bit on the CPU."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.log import MetricsWriter, progress
from pretrain.runtime.preempt import Preempted, StopRequest
from pretrain.runtime.seed import capture_rng, restore_rng
from transfer.engines.base import LAST_CHECKPOINT
from transfer.engines.tv.weights import as_tensors, detectron2_state, load_weights

logger = logging.getLogger(__name__)

LOG_EVERY = 20
Batch = list[dict[str, Any]]


class Training:
    """Holds a run's model, optimizer, scaler and iteration, and saves and restores them with every rank's RNG."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: torch.dtype | None, output_dir: Path
    ):
        """
        Args:
            model: the detector itself, not its DistributedDataParallel wrapper.
            precision: autocast's type: float16, with loss scaling (CUDA only), or bfloat16; None for float32.
            output_dir: folder of checkpoints and metrics.
        """
        self.model, self.optimizer, self.output_dir, self.precision = model, optimizer, output_dir, precision
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)
        self.iteration = 0
        self._seconds_before, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Returns the run's wall time so far, with that of killed processes up to their last checkpoint."""
        return self._seconds_before + time.monotonic() - self._started

    def save(self) -> None:
        """Writes `model_<iteration>.pth`, points `last_checkpoint` to it and removes the checkpoint before it."""
        rng = dist.gather_objects(capture_rng())
        if dist.is_main():
            name = f"model_{self.iteration - 1:07d}.pth"
            state = {
                "model": detectron2_state(self.model),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "iteration": self.iteration,
                "seconds": self.seconds,
                "rng": rng,
                "engine": "torchvision",
            }
            checkpoint.save(state, self.output_dir / name)
            with checkpoint.atomic_write(self.output_dir / LAST_CHECKPOINT, "w") as f:
                f.write(name)
            for old in self.output_dir.glob("model_*.pth"):
                if re.fullmatch(r"model_\d{7}\.pth", old.name) and old.name != name:
                    old.unlink()
        dist.barrier()

    def restore(self) -> None:
        """Continues from `last_checkpoint`.

        Raises:
            CheckpointError: the file is unreadable, is another engine's, or was written by another number of processes.
        """
        path = self.output_dir / (self.output_dir / LAST_CHECKPOINT).read_text().strip()
        state = checkpoint.load(path)
        if state.get("engine") != "torchvision":
            raise checkpoint.CheckpointError(
                f"'{path}' was written by Detectron2; a run is resumed by the engine that began it (its weights can be "
                "evaluated, or fine-tuned further, by either: MODEL.WEIGHTS)"
            )
        if len(state["rng"]) != dist.world_size():
            raise checkpoint.CheckpointError(
                f"'{path}' was written by {len(state['rng'])} processes, not {dist.world_size()}; resume with as many"
            )
        load_weights(self.model, as_tensors(state["model"]), str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.iteration, self._seconds_before = state["iteration"], state["seconds"]
        restore_rng(state["rng"][dist.rank()])


def run(
    training: Training,
    forward: nn.Module,
    batches: Iterator[Batch],
    *,
    max_iter: int,
    learning_rate: Callable[[int], float],
    clip: Callable[[list[nn.Parameter]], None] | None,
    checkpoint_period: int,
    eval_period: int,
    evaluate: Callable[[], Mapping[str, float]],
    images_per_batch: int,
) -> None:
    """Iterates from `training.iteration` to `max_iter`.

    Args:
        forward: computes the losses (the model, or its DistributedDataParallel wrapper).
        batches: endless batches, already at the right position.
        learning_rate: iteration -> base rate; a group's rate is that times its `lr_scale`.
        evaluate: called every `eval_period` iterations (0 = never) but not at the end.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint stays.
        Exception: `batches` raised it; a run of one process first writes a checkpoint.
        Preempted: a signal asked to stop, and a checkpoint was written. Several processes agree on it every
            `LOG_EVERY` iterations.
    """
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    device_type = next(training.model.parameters()).device.type
    bar = progress(max_iter, "fine-tune", initial=training.iteration, disable=not dist.is_main())
    metrics_file = MetricsWriter(training.output_dir / ".", training.iteration) if dist.is_main() else _NoMetrics()
    with bar, metrics_file as out, StopRequest() as stop:
        started, logged_at = time.monotonic(), training.iteration
        saved = training.iteration
        while training.iteration < max_iter:
            forward.train()
            rate = learning_rate(training.iteration)
            for group in training.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            try:
                batch = next(batches)
            except Exception:  # a loader's process was killed, an image has gone: the iterations before are whole
                if dist.world_size() == 1 and training.iteration > saved:
                    training.save()
                raise
            with torch.autocast(device_type, training.precision, enabled=training.precision is not None):
                losses = forward(batch)
                total = sum(losses.values())
            if not torch.isfinite(total):
                raise FloatingPointError(
                    f"the loss is {float(total)} at iteration {training.iteration} "
                    f"({', '.join(f'{k} {float(v):.3g}' for k, v in losses.items())}): training has diverged; lower "
                    "SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS"
                )
            training.optimizer.zero_grad()
            training.scaler.scale(total).backward()
            if clip is not None:
                training.scaler.unscale_(training.optimizer)
                clip(parameters)
            training.scaler.step(training.optimizer)
            training.scaler.update()
            training.iteration += 1
            bar.update()

            i = training.iteration
            if i % LOG_EVERY == 0 or i == max_iter or i == 1:
                now = time.monotonic()
                speed = (i - logged_at) * images_per_batch / max(now - started, 1e-9)
                values = {k: float(v.detach()) for k, v in losses.items()}
                values["total_loss"] = float(total.detach())
                out.write(i - 1, **values, lr=rate, images_per_second=speed)
                bar.set_postfix_str(f"loss {values['total_loss']:.3f}, lr {rate:.2g}, {speed:.1f} img/s", refresh=False)
                started, logged_at = now, i
            if eval_period and i % eval_period == 0 and i < max_iter:
                metrics = evaluate()
                logger.info("iteration %d: %s", i, ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()))
                out.write(i - 1, **metrics)
            asked = stop.anywhere() if i % LOG_EVERY == 0 or dist.world_size() == 1 else ""
            if i < max_iter and (asked or (checkpoint_period and i % checkpoint_period == 0)):
                training.save()
                saved = i
            if i < max_iter and asked:
                raise Preempted(f"{asked}: stopped after {i} of {max_iter} iterations")


class _NoMetrics:
    """Stands in for the metrics file on the other ranks, which write nothing."""

    def __enter__(self) -> _NoMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, iteration: int, **scalars: float) -> None:
        return None


def precise_bn(model: nn.Module, batches: Iterator[Batch], iterations: int) -> None:
    """Replaces the running statistics by averages over `iterations` training batches with the final weights.

    With several processes the statistics are those of all processes' batches together, so that all evaluate the same
    model (Detectron2 leaves each rank its own statistics).
    """
    layers = get_bn_modules(model)
    if not layers:
        return
    logger.info("precise BN: statistics of %d layers over %d batches", len(layers), iterations)
    training = model.training
    model.train()
    with torch.no_grad():
        bar = progress(iterations, "precise BN", disable=not dist.is_main())
        with bar:
            update_bn_stats(model, _counted(batches, iterations, bar), iterations)
    for layer in layers if dist.world_size() > 1 else []:
        moments = torch.stack([layer.running_mean, layer.running_var + layer.running_mean.square()])
        torch.distributed.all_reduce(moments)
        mean, square = moments / dist.world_size()
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(square - mean.square())
    model.train(training)


def _counted(batches: Iterator[Batch], count: int, bar: Any) -> Iterator[Batch]:
    for _ in range(count):
        yield next(batches)
        bar.update()
