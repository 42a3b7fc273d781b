"""Joins the processes of several machines into one group before an engine starts, as torchrun does.

An engine runs in whatever process group it finds, so `--num-machines` means the same on both engines.
"""

from __future__ import annotations

import argparse
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from pretrain.runtime import commands, dist
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.machine import MachineError, fault
from pretrain.runtime.preempt import PassedOn, Preempted
from transfer.engines.base import EngineError


@dataclass(frozen=True)
class Machines:
    """Describes the machines of a run and this machine's place among them.

    Attributes:
        count: number of machines, each with the same number of processes.
        rank: number of this machine, 0 <= rank < count; the process group meets on machine 0.
        url: `tcp://host:port` of machine 0; needed if there is more than one machine.

    Raises:
        EngineError: the values do not go together.
    """

    count: int = 1
    rank: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.rank < self.count:
            raise EngineError(
                f"--machine-rank {self.rank} of --num-machines {self.count}: machines are numbered from 0 to N - 1"
            )
        if self.count > 1 and not re.fullmatch(r"tcp://[^:/]+:\d+", self.url):
            raise EngineError(
                f"--dist-url '{self.url}': {self.count} machines need tcp://HOST:PORT, the same on each, where HOST is "
                "the one with --machine-rank 0"
            )

    def start(self, processes: int, tool: Callable[..., int], *args: Any) -> int:
        """Runs `tool(*args)` in `processes` processes of this machine, each with the environment that torchrun sets.

        Returns:
            The exit code of the first process that failed (the others are ended), or 0.

        Raises:
            EngineError: this process was itself started by torchrun, or a process died of an exception or a signal.
        """
        if "LOCAL_RANK" in os.environ:
            raise EngineError("under torchrun the machines are torchrun's to number: drop --num-machines")
        if processes < 1:
            raise EngineError(f"--num-gpus {processes}: each machine needs a process")
        try:
            with PassedOn():
                mp.spawn(_enter, args=(self, processes, tool, args), nprocs=processes)
        except mp.ProcessExitedException as error:
            if error.signal_name is None:
                return error.exit_code
            raise _failure(f"a process of machine {self.rank}", error) from error
        except mp.ProcessRaisedException as error:
            raise _failure(f"a process of machine {self.rank}", error) from error
        return 0


def _enter(
    local_rank: int, machines: Machines, processes: int, tool: Callable[..., int], args: tuple[Any, ...]
) -> None:
    host, port = machines.url.removeprefix("tcp://").rsplit(":", 1)
    os.environ |= {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "WORLD_SIZE": str(machines.count * processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "RANK": str(machines.rank * processes + local_rank),
        "LOCAL_RANK": str(local_rank),
    }
    try:
        code = commands.status(tool, *args)
    finally:
        dist.shutdown()
    if code:
        raise SystemExit(code)


@contextmanager
def spawning(processes: int) -> Iterator[None]:
    """Passes stop signals on to the processes that the enclosed call starts and waits for.

    If `processes` is 1, the caller itself is that process, and nothing is done.

    Raises:
        Preempted: the processes stopped because of a signal.
        EngineError: a process failed.
        MachineError: a process was killed, or the machine failed it.
    """
    if processes == 1:
        yield
        return
    with PassedOn() as stop:
        try:
            yield
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            if stop.received and (isinstance(error, mp.ProcessExitedException) or Preempted.__name__ in str(error)):
                raise Preempted(f"{stop.received}: the {processes} processes stopped") from error
            raise _failure(f"a process of {processes}", error) from error


def _failure(who: str, error: mp.ProcessRaisedException | mp.ProcessExitedException) -> ExpectedError:
    """Returns the error to raise for a process that died: its own message if the error was expected, else it all."""
    if isinstance(error, mp.ProcessExitedException) and error.signal_name == "SIGKILL":
        return MachineError(
            f"{who} was ended by SIGKILL, by the system if memory ran out; take a smaller batch or a larger machine, "
            "and run it again with --resume auto"
        )
    if isinstance(error, mp.ProcessExitedException) and error.signal_name is not None:
        return EngineError(f"{who} was ended by {error.signal_name}")
    if (words := _expected(str(error))) is not None:
        found = fault(EngineError(words))
        return EngineError(words) if found is None else MachineError(words, found.code)
    found = fault(error)
    return EngineError(f"{who} failed:{error}") if found is None else MachineError(found.words, found.code)


def _expected(traceback: str) -> str | None:
    """Returns the message at the end of a process's traceback if an expected error ended it, else None."""
    for kind in (*_kinds(ExpectedError), FloatingPointError):
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        _, found, message = traceback.rpartition(f"\n{name}: ")
        if found:
            return message.strip()
    return None


def _kinds(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yields a class and all classes that derive from it."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def rank_to_be() -> int:
    """Returns this process's rank in the group that it is going to join, or 0 if there is none."""
    return int(os.environ.get("RANK", "0"))


def join(device: str) -> None:
    """Joins the process group that the environment describes, if there is one: nccl on GPUs, gloo on CPUs.

    Args:
        device: MODEL.DEVICE.

    Raises:
        GroupError: see `dist.init_from_env`.
    """
    dist.init_from_env("cuda" if device.startswith("cuda") and torch.cuda.is_available() else "cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of several processes and machines to a tool's command line."""
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes per machine (default: 1)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="of this machine: 0 to N - 1")
    parser.add_argument("--dist-url", default="", metavar="tcp://HOST:PORT", help="of machine 0; the same everywhere")


def start(tool: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Runs a tool as its parsed options say, here or once per process of this machine; returns the exit code.

    If the tool joins a process group, this process leaves it in the end.

    Raises:
        EngineError: see `Machines`. A tool that runs here also raises its own errors.
    """
    machines = Machines(args.num_machines, args.machine_rank, args.dist_url)
    if machines.count > 1:
        return machines.start(args.num_gpus, tool, args)
    try:
        return tool(args)
    finally:
        dist.shutdown()


def local_world_size() -> int:
    """Returns the number of processes on this machine (torchrun's LOCAL_WORLD_SIZE; without torchrun, all)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.world_size()))


def check_shared(output_dir: Path) -> None:
    """Makes `output_dir` and checks that all machines see the same one: the main process writes what all read.

    Raises:
        EngineError: a machine does not see it.
    """
    if local_world_size() >= dist.world_size():
        return
    probe = output_dir / dist.broadcast_object(f".shared-{uuid.uuid4().hex}")
    if dist.is_main():
        output_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
    dist.barrier()
    blind = [rank for rank, seen in enumerate(dist.gather_objects(probe.exists())) if not seen]
    if dist.is_main():
        probe.unlink()
    if blind:
        raise EngineError(
            f"OUTPUT_DIR '{output_dir}' is not the same folder on all machines (processes {blind} do not see it); put "
            "it on a file system that they share"
        )
