"""The training iteration: views in, logits, cross-entropy, SGD; and what happens between iterations."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data import BadImageError, Batch
from pretrain.runtime import dist
from pretrain.runtime.log import MetricsWriter, progress

LOG = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


@dataclass
class Mean:
    """Mean of loss and accuracy over iterations; the sums stay on the device until somebody asks."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  # loss, acc1, iterations

    def add(self, loss: Tensor, acc1: Tensor) -> None:
        self.sums = self.sums.to(loss.device) + torch.stack(
            [loss.double(), acc1.double(), torch.ones_like(loss).double()]
        )

    def reset(self) -> None:
        self.sums = torch.zeros_like(self.sums)

    def over_processes(self) -> tuple[float, float]:
        """(loss, acc1 in percent), the mean over iterations and processes; every process must call. NaN if empty."""
        loss, acc1, count = dist.all_gather(self.sums.unsqueeze(0)).sum(0).tolist()
        return (loss / count, acc1 / count) if count else (math.nan, math.nan)


@dataclass
class TrainState:
    """How far this process's run is: with weights, optimizer and RNG, all that a resumed run needs.

    Attributes:
        iteration: optimizer steps done.
        seconds: spent training, earlier processes of the same run included.
        skipped: unreadable images replaced, in this process's share.
        window: means since the last line of metrics.
        epoch: means over the current (after the end: the last) epoch.
    """

    iteration: int = 0
    seconds: float = 0.0
    skipped: int = 0
    window: Mean = field(default_factory=Mean)
    epoch: Mean = field(default_factory=Mean)


@dataclass(frozen=True)
class Plan:
    """The shape of a run: `learning_rate` by epoch (from 0), periods in iterations (0: never) or seconds."""

    batch_size: int
    per_epoch: int
    epochs: int
    learning_rate: Callable[[int], float]
    log_period: int = 20
    checkpoint_period: int = 0
    checkpoint_seconds: float = 0.0

    @property
    def iterations(self) -> int:
        return self.per_epoch * self.epochs


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, im_q: Tensor, im_k: Tensor) -> tuple[Tensor, Tensor]:
    """One optimizer step on two views (N x 3 x H x W each).

    Returns:
        The InfoNCE loss and the accuracy, in percent, of picking the positive among 1+K candidates: scalars on the
        device, of the weights before the step.
    """
    logits, labels = model(im_q, im_k)  # N x (1+K), N
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    acc1 = 100 * (logits.detach().argmax(dim=1) == labels).float().mean()
    return loss.detach(), acc1


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
) -> None:
    """Trains from `state.iteration` to the end of `plan`, keeping `state` current.

    Args:
        model: maps two batches of views to logits and labels.
        batches: from `state.iteration` on.
        writer: None in all processes but the main one.
        save: writes a checkpoint; every process calls it, after every epoch and as often as `plan` says.

    Raises:
        BadImageError: an image cannot be read (nor replaced).
        DivergedError: the loss is not finite; checked at every line of metrics and before every checkpoint.
    """
    model.train()
    clock = _Clock(state.seconds)
    last_save, last_log, images = clock.start, clock.start, 0
    warned: set[str] = set()
    total, initial = plan.iterations * plan.batch_size, state.iteration * plan.batch_size
    with progress(total, "pretrain", unit="img", initial=initial, disable=writer is None) as bar:
        for batch in batches:
            im_q, im_k = _receive(batch, state, warned, device)
            epoch, step = divmod(state.iteration, plan.per_epoch)
            if step == 0:
                state.epoch.reset()
            lr = plan.learning_rate(epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss, acc1 = train_step(model, optimizer, im_q, im_k)
            state.window.add(loss, acc1)
            state.epoch.add(loss, acc1)
            state.iteration += 1
            images += plan.batch_size
            bar.update(plan.batch_size)

            epoch_ends = step + 1 == plan.per_epoch
            looks = epoch_ends or state.iteration % plan.log_period == 0
            due = epoch_ends or (plan.checkpoint_period > 0 and state.iteration % plan.checkpoint_period == 0)
            if looks or due:
                _check_finite(state, lr)
            if looks:
                scalars = _look(state, plan, lr, images / (time.perf_counter() - last_log))
                last_log, images = time.perf_counter(), 0
                bar.set_postfix(loss=f"{scalars['loss']:.3f}", acc1=f"{scalars['acc1']:.1f}%", refresh=False)
                if writer is not None:
                    writer.write(state.iteration - 1, **scalars)
                late = plan.checkpoint_seconds > 0 and time.perf_counter() - last_save >= plan.checkpoint_seconds
                due = dist.broadcast_object(due or late)  # the clocks of the processes differ
            state.seconds = clock.now()
            if epoch_ends:
                _report_epoch(state, plan, epoch, lr)
            if due:
                save(state)
                last_save = time.perf_counter()


class _Clock:
    """Seconds since construction on top of those of earlier processes."""

    def __init__(self, before: float):
        self.before, self.start = before, time.perf_counter()

    def now(self) -> float:
        return self.before + time.perf_counter() - self.start


def _receive(batch: Batch, state: TrainState, warned: set[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Views on the device; counts the images that had to be replaced and names each of them once."""
    if batch.views is None:
        hint = (
            "remove it, or set DATA.ON_BAD_IMAGE skip" if len(batch.bad) == 1 else f"{len(batch.bad)} like it in a row"
        )
        raise BadImageError(f"{batch.bad[-1]}; {hint}")
    state.skipped += len(batch.bad)
    for reason in sorted(set(batch.bad) - warned):
        LOG.warning("skipped: %s", reason)
        warned.add(reason)
    im_q, im_k = batch.views
    return im_q.to(device, non_blocking=True), im_k.to(device, non_blocking=True)


def _check_finite(state: TrainState, lr: float) -> None:
    loss, _ = state.epoch.over_processes()
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} after {state.iteration} iterations; lower SOLVER.BASE_LR (the rate is {lr:g} now)"
        )


def _look(state: TrainState, plan: Plan, lr: float, images_per_second: float) -> dict[str, float]:
    """The scalars of a line of metrics; starts a new window."""
    loss, acc1 = state.window.over_processes()
    state.window.reset()
    return {
        "loss": loss,
        "acc1": acc1,
        "lr": lr,
        "epoch": state.iteration / plan.per_epoch,
        "images_per_second": images_per_second,
        "skipped": sum(dist.gather_objects(state.skipped)),
    }


def _report_epoch(state: TrainState, plan: Plan, epoch: int, lr: float) -> None:
    loss, acc1 = state.epoch.over_processes()
    LOG.info(
        "epoch %d/%d: loss %.4f, acc1 %.2f%% (1 of 1+K), lr %.2g, %.0f images/s",
        *(epoch + 1, plan.epochs, loss, acc1, lr, rate(state, plan)),
    )


def rate(state: TrainState, plan: Plan) -> float:
    """Images per second over the whole run so far, checkpoints included."""
    return state.iteration * plan.batch_size / state.seconds if state.seconds else 0.0
