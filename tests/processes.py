"""Processes in a test, forked from a server that has imported torch once (which takes seconds) and done nothing else.

`run_in_processes` is for functions in one process group, `Tool` for scripts: what `subprocess.Popen` is, but warm.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["torchvision", "pretrain.run", "transfer.engines.tv.engine", "matplotlib.figure", "tests.processes"]


def start_processes(function: Callable[..., Any], args: tuple[Any, ...], nprocs: int) -> None:
    """Does what `torch.multiprocessing.spawn` does: `function(rank, *args)` in each of `nprocs` processes."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(function, args, nprocs, start_method="forkserver")


def run_in_processes(
    function: Callable[..., Any], folder: Path, *args: Any, world_size: int = 2, backend: str = "gloo"
) -> list[Any]:
    """What `function(*args)`, defined at the top of a module, returns in each process of one group.

    Args:
        backend: gloo, or nccl, which gives each process the GPU of its rank.
    """
    start_processes(_member, (function, world_size, backend, folder, args, dict(os.environ)), world_size)
    return [torch.load(folder / f"{rank}.pth") for rank in range(world_size)]


def _member(
    rank: int,
    function: Callable[..., Any],
    world_size: int,
    backend: str,
    folder: Path,
    args: tuple[Any, ...],
    environment: Mapping[str, str],
) -> None:
    _take(environment)
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(function(*args), folder / f"{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


class Tool:
    """A script of `tools/` with its words, started as `python script words...` is, but without the imports."""

    def __init__(self, script: str | os.PathLike[str], *words: object, cwd: Path | None = None, group: bool = False):
        """
        Args:
            group: let it lead a process group of its own, which a signal can be sent to as a whole.
        """
        multiprocessing.set_forkserver_preload(PRELOADED)
        self._out, self._err = (tempfile.TemporaryFile() for _ in "oe")
        names = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (self._out, self._err)]
        argv = [str(script), *map(str, words)]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(argv, names, dict(os.environ), cwd or Path.cwd(), torch.get_num_threads(), group)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 300) -> int:
        """Its exit status, -N if signal N ended it."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(["tool"], timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self.wait(timeout)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return texts[0], texts[1]

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


def run_tool(
    script: str | os.PathLike[str], *words: object, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end, as `subprocess.run(..., capture_output=True, text=True)` does."""
    tool = Tool(script, *words, cwd=cwd)
    out, err = tool.communicate(timeout)
    return subprocess.CompletedProcess([str(script), *map(str, words)], tool.wait(), out, err)


def _run(
    argv: Sequence[str], files: Sequence[str], environment: Mapping[str, str], cwd: Path, threads: int, group: bool
) -> None:
    if group:
        os.setsid()
    _take(environment)
    for number, name in enumerate(files, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", threads)))
    sys.argv = [*argv]
    runpy.run_path(argv[0], run_name="__main__")


def _take(environment: Mapping[str, str]) -> None:
    """Makes this process as one that was started by hand: its environment, and how it starts others."""
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
