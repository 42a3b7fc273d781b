"""Runs the same code in one process or many (torchrun's environment, gloo or nccl)."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from pretrain.runtime.errors import ExpectedError


class GroupError(ExpectedError, RuntimeError):
    """Says that this process cannot join the group that it was started for."""


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if is_initialized() else 1


def local_rank() -> int:
    """Returns the rank of this process on its own machine (torchrun's LOCAL_RANK; 0 without torchrun)."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    return rank() == 0


def init_from_env(device_type: str) -> bool:
    """Joins the process group that torchrun describes in the environment; returns whether there was one.

    Args:
        device_type: "cuda" uses nccl and binds this process to GPU LOCAL_RANK; "cpu" uses gloo.

    Raises:
        GroupError: this process has no GPU to itself, the environment is incomplete, or the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or is_initialized():
        return is_initialized()
    if device_type == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise GroupError(f"process {local_rank()} has no GPU, there are {torch.cuda.device_count()}: start fewer")
        torch.cuda.set_device(local_rank())
    try:
        dist.init_process_group(backend="nccl" if device_type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:  # ValueError: a variable is missing
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise GroupError(f"cannot join the process group at {where}: {str(error).splitlines()[0]}") from error
    return True


def shutdown() -> None:
    if is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    if is_initialized():
        dist.barrier()


@torch.no_grad()
def all_gather(x: torch.Tensor) -> torch.Tensor:
    """Concatenates `x` of every process along dim 0, in rank order, without a gradient.

    Shapes: (N, ...) on every process, the same N -> (world_size * N, ...).
    """
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _GatherWithGradient(torch.autograd.Function):
    """Applies `all_gather`, and backwards its transpose: the sum of all processes' gradients of this process's rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.first, ctx.count = rank() * len(x), len(x)
        return all_gather(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # autograd may still need the one it gave us
        dist.all_reduce(grad)
        return grad[ctx.first : ctx.first + ctx.count]


def all_gather_with_gradient(x: torch.Tensor) -> torch.Tensor:
    """Gathers as `all_gather` does, but can be differentiated: (N, ...) -> (world_size * N, ...).

    If process p has the loss L_p, row i of process r receives the sum over p of dL_p/dx_ri. DistributedDataParallel
    averages parameter gradients over processes, so that they train on the gradient of the mean of the L_p: exactly that
    of one process with the whole batch. Backward is a collective: every process must run it.
    """
    return x if world_size() == 1 else _GatherWithGradient.apply(x)


def broadcast(x: torch.Tensor) -> torch.Tensor:
    """Overwrites every process's `x` with that of rank 0."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


def gather_objects(obj: Any) -> list[Any]:
    """Returns every process's picklable `obj`, in rank order, on every process."""
    if world_size() == 1:
        return [obj]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, obj)
    return out


def broadcast_object(obj: Any) -> Any:
    """Returns rank 0's picklable `obj` on every process."""
    if world_size() == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0)
    return box[0]
