"""Runs the training loop: views, logits, loss and optimizer step, and what happens between iterations."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from pretrain.data.augment import normalise
from pretrain.data.decode import BadImageError
from pretrain.data.views import Batch
from pretrain.mean import Mean
from pretrain.runtime import dist
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.log import MetricsWriter, progress
from pretrain.runtime.preempt import Preempted, StopRequest
from pretrain.score import Score, Scored, classification

LOG = logging.getLogger(__name__)


class DivergedError(ExpectedError, RuntimeError):
    """The loss is infinite or not a number."""


@dataclass
class TrainState:
    """Holds the progress of a run in this process. With weights, optimizer and RNG, it is all that resuming needs.

    Attributes:
        iteration: number of optimizer steps done.
        seconds: time spent on training, including earlier processes of the same run.
        skipped: number of unreadable images that were replaced in this process's share.
        window: means since the last line of metrics.
        epoch: means over the current epoch or, after its end, the last one.
    """

    iteration: int = 0
    seconds: float = 0.0
    skipped: int = 0
    window: Mean = field(default_factory=Mean)
    epoch: Mean = field(default_factory=Mean)


@dataclass(frozen=True)
class Plan:
    """Holds the length and the rhythm of a run.

    Attributes:
        batch_size: images per iteration, over all processes.
        per_epoch: iterations in an epoch.
        iterations: length of the run; the last epoch may be cut short.
        learning_rate: the rate as a function of the iteration (from 0).
        score: computes loss and scalars from what the model returns.
        accumulate: micro-batches in an iteration.
        log_period, checkpoint_period: iterations between lines of metrics, and between checkpoints (0: none).
        checkpoint_seconds: seconds between checkpoints (0: none).
    """

    batch_size: int
    per_epoch: int
    iterations: int
    learning_rate: Callable[[int], float]
    score: Score = classification
    accumulate: int = 1
    log_period: int = 20
    checkpoint_period: int = 0
    checkpoint_seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """Returns the number of epochs, the last of which may be incomplete."""
        return math.ceil(self.iterations / self.per_epoch)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    im_q: Tensor,
    key: Tensor,
    *,
    score: Score = classification,
    parts: int = 1,
    scaler: GradScaler | None = None,
) -> Scored:
    """Makes one optimizer step.

    Args:
        model: a mechanism, see `mechanisms.base`.
        im_q: N x 3 x H x W: one view of each image.
        key: N x ...: what leads to the images' keys (another view, a number, or a label).
        score: computes loss and scalars from what the model returns.
        parts: number of micro-batches of equal size (N is a multiple), encoded one after the other to need less memory.
            Their gradients add up to that of the mean over N, and are exchanged between processes once.
        scaler: the loss scaler for half precision; it skips a step whose gradients overflow.

    Returns:
        The loss and the scalars as means over micro-batches, on the device, computed with the weights before the step.
    """
    scaler = scaler or GradScaler(im_q.device.type, enabled=False)
    optimizer.zero_grad()
    losses: list[Tensor] = []
    scalars: dict[str, list[Tensor]] = {}
    for part, images in enumerate(im_q.chunk(parts)):
        last = part == parts - 1
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
            loss, found = score(model(images, key, part, parts))
            scaler.scale(loss / parts).backward()
        losses.append(loss.detach())
        for name, value in found.items():
            scalars.setdefault(name, []).append(value)
    scaler.step(optimizer)
    scaler.update()
    return torch.stack(losses).mean(), {name: torch.stack(values).mean() for name, values in scalars.items()}


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    state: TrainState,
    plan: Plan,
    *,
    device: torch.device,
    writer: MetricsWriter | None,
    save: Callable[[TrainState], None],
    epoch_ended: Callable[[int], None] | None = None,
    scaler: GradScaler | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    monitor: Callable[[int], dict[str, float]] | None = None,
    name: str = "pretrain",
) -> None:
    """Trains from `state.iteration` to the end of `plan`, keeping `state` current.

    Args:
        model: a mechanism, see `train_step`.
        batches: the batches from `state.iteration` on.
        writer: takes the metrics; None in all processes but the main one.
        save: writes a checkpoint; every process calls it, after every epoch and as often as `plan` says.
        epoch_ended: every process calls it with the number of epochs done, after each whole epoch and before its
            `save`.
        scaler: see `train_step`.
        memory_format: memory format of the views.
        monitor: iteration -> more scalars for a line of metrics.
        name: label of the progress bar.

    Raises:
        BadImageError: an image can neither be read nor replaced.
        Exception: whatever `batches` raises. Before this error or a BadImageError, a run of one process has written a
            checkpoint.
        DivergedError: the loss is not finite; checked at every line of metrics and before every checkpoint.
        Preempted: a signal asked to stop, and a checkpoint was written. One process looks for signals after every
            iteration; several agree at every line of metrics, so that all stop after the same iteration.
    """
    model.train()
    clock = _Clock(state.seconds)
    last_save, last_log, images = clock.start, clock.start, 0
    warned: set[str] = set()
    total, initial = plan.iterations * plan.batch_size, state.iteration * plan.batch_size
    bar = progress(total, name, unit="img", initial=initial, disable=writer is None)
    saved = state.iteration

    def keep() -> None:
        if dist.world_size() == 1 and state.iteration > saved and math.isfinite(state.epoch.over_processes()["loss"]):
            save(state)

    with bar, StopRequest() as stop:
        for im_q, key in _received(batches, keep, state, warned, device, memory_format):
            epoch, step = divmod(state.iteration, plan.per_epoch)
            if step == 0:
                state.epoch.reset()
            lr = plan.learning_rate(state.iteration)
            for group in optimizer.param_groups:
                group["lr"] = lr
            scored = train_step(model, optimizer, im_q, key, score=plan.score, parts=plan.accumulate, scaler=scaler)
            state.window.add(*scored)
            state.epoch.add(*scored)
            state.iteration += 1
            images += plan.batch_size
            bar.update(plan.batch_size)

            epoch_ends = step + 1 == plan.per_epoch or state.iteration == plan.iterations
            looks = epoch_ends or state.iteration % plan.log_period == 0
            due = epoch_ends or (plan.checkpoint_period > 0 and state.iteration % plan.checkpoint_period == 0)
            asked = stop.anywhere() if looks or dist.world_size() == 1 else ""
            if looks or due or asked:
                _check_finite(state, lr)
            if looks:
                means = state.window.over_processes()
                state.window.reset()
                scalars = _look(state, plan, lr, images / (time.perf_counter() - last_log))
                last_log, images = time.perf_counter(), 0
                bar.set_postfix(_said(means, 3, 1), refresh=False)
                if writer is not None:
                    health = monitor(state.iteration) if monitor is not None else {}
                    writer.write(state.iteration - 1, **means, **scalars, **health)
                late = plan.checkpoint_seconds > 0 and time.perf_counter() - last_save >= plan.checkpoint_seconds
                due = dist.broadcast_object(due or late)  # the clocks of the processes differ
            state.seconds = clock.now()
            if epoch_ends:
                _report_epoch(state, plan, epoch, lr)
                if epoch_ended is not None and step + 1 == plan.per_epoch:
                    epoch_ended(epoch + 1)
            if due or asked:
                save(state)
                last_save, saved = time.perf_counter(), state.iteration
            if asked and state.iteration < plan.iterations:
                dist.barrier()  # nobody leaves, and has the others killed, before the file is written
                raise Preempted(f"{asked}: stopped after {state.iteration} of {plan.iterations} iterations")


class _Clock:
    """Counts the seconds since construction on top of those of earlier processes."""

    def __init__(self, before: float):
        self.before, self.start = before, time.perf_counter()

    def now(self) -> float:
        return self.before + time.perf_counter() - self.start


def _received(
    batches: Iterable[Batch],
    keep: Callable[[], None],
    state: TrainState,
    warned: set[str],
    device: torch.device,
    memory_format: torch.memory_format,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields `_receive` of every batch; if a batch cannot be had, calls `keep()` before the error is raised."""
    source = iter(batches)
    while True:
        try:
            batch = next(source, None)
            received = None if batch is None else _receive(batch, state, warned, device, memory_format)
        except Exception:
            keep()
            raise
        if received is None:
            return
        yield received


def _receive(
    batch: Batch, state: TrainState, warned: set[str], device: torch.device, memory_format: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Returns query views and keys on the device; counts the images that were replaced and names each of them once."""
    if batch.views is None:
        hint = (
            "remove it, or set DATA.ON_BAD_IMAGE skip" if len(batch.bad) == 1 else f"{len(batch.bad)} like it in a row"
        )
        raise BadImageError(f"{batch.bad[-1]}; {hint}")
    state.skipped += len(batch.bad)
    for reason in sorted(set(batch.bad) - warned):
        LOG.warning("skipped: %s", reason)
        warned.add(reason)
    im_q, key = (_place(x, device, memory_format) for x in batch.query_and_key())
    return im_q, key


def _place(x: Tensor, device: torch.device, memory_format: torch.memory_format) -> Tensor:
    """Moves a tensor to the device. Views that come as bytes are normalised; anything else stays as it is."""
    if x.dtype == torch.uint8:
        return normalise(x, device, memory_format)
    return x.to(device, non_blocking=True, memory_format=memory_format if x.ndim == 4 else torch.preserve_format)


def _check_finite(state: TrainState, lr: float) -> None:
    loss = state.epoch.over_processes()["loss"]
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} after {state.iteration} iterations; lower SOLVER.BASE_LR (the rate is {lr:g} now)"
        )


def _look(state: TrainState, plan: Plan, lr: float, images_per_second: float) -> dict[str, float]:
    """Returns what a line of metrics says about the state of training beside its means."""
    return {
        "lr": lr,
        "epoch": state.iteration / plan.per_epoch,
        "images_per_second": images_per_second,
        "skipped": sum(dist.gather_objects(state.skipped)),
    }


def _report_epoch(state: TrainState, plan: Plan, epoch: int, lr: float) -> None:
    means = ", ".join(f"{name} {value}" for name, value in _said(state.epoch.over_processes(), 4, 2).items())
    LOG.info("epoch %d/%d: %s, lr %.2g, %.0f images/s", epoch + 1, plan.epochs, means, lr, rate(state, plan))


def _said(means: dict[str, float], digits: int, of_percent: int) -> dict[str, str]:
    """Formats numbers with the given digits after the point; accuracies are in percent."""
    percent = {name: name.startswith("acc") for name in means}
    return {name: f"{x:.{of_percent}f}%" if percent[name] else f"{x:.{digits}f}" for name, x in means.items()}


def rate(state: TrainState, plan: Plan) -> float:
    """Returns the images per second over the whole run so far, including the time for checkpoints."""
    return state.iteration * plan.batch_size / state.seconds if state.seconds else 0.0
