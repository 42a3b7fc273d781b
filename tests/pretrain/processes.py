"""Several gloo processes in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_processes(function: Callable[..., Any], folder: Path, *args: Any, world_size: int = 2) -> list[Any]:
    """What `function(*args)`, defined at the top of a module, returns in each process of one group."""
    mp.spawn(_enter, (function, world_size, folder, args), nprocs=world_size)
    return [torch.load(folder / f"{rank}.pth") for rank in range(world_size)]


def _enter(rank: int, function: Callable[..., Any], world_size: int, folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(function(*args), folder / f"{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()
