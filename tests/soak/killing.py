"""Runs a command, kills it at a random moment, starts it again, until it has been killed often enough and is done.

After every kill each file is read and each lock asked; at the end the results are held against those of a run that was
left alone.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pretrain.runtime import checkpoint, lock
from tests.conftest import ROOT
from tests.processes import Tool

LOG = logging.getLogger(__name__)
KINDS = ("command", "all", "one")  # what a kill hits: the command alone, every process of it, or one of those


@dataclass(frozen=True)
class Part:
    """What is killed.

    Attributes:
        words: of the command that runs in a folder, or goes on there.
        results: what a finished folder holds that must be equal bit by bit, by name.
        jobs: whether its processes outlive it on purpose, with their locks.
    """

    name: str
    tool: str
    words: Callable[[Path], Sequence[object]]
    results: Callable[[Path], dict[str, Any]]
    jobs: bool = False


@dataclass
class Tally:
    """What came of it; all but `kills` and `runs` must be 0."""

    kills: int = 0
    runs: int = 0
    different: int = 0
    unreadable: int = 0
    leftovers: int = 0
    stuck: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {self.runs} runs, {self.different} of them not bit-equal, {self.unreadable} "
            f"unreadable files, {self.leftovers} leftovers, {self.stuck} stuck locks"
        )

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def faults(self) -> int:
        return self.different + self.unreadable + self.leftovers + self.stuck


def soak(part: Part, folder: Path, kills: int, seed: int) -> Tally:
    """Kills `part` so many times; every folder that it works in is finished in the end."""
    rng, tally = random.Random(seed), Tally()
    Tool(
        ROOT / "tools" / "status.py", folder
    ).wait()  # the server from which the others are forked takes seconds to start
    began = time.monotonic()
    run_to_its_end(part, folder / "alone")
    longest = time.monotonic() - began
    expected = part.results(folder / "alone")
    while tally.kills < kills:
        run = folder / f"killed_{tally.runs}"
        while tally.kills < kills:
            tool = start(part, run)
            until = time.monotonic() + rng.uniform(0, 0.7 * longest)
            while time.monotonic() < until and tool.poll() is None:
                time.sleep(0.01)
            if tool.poll() is not None:
                break
            kind = rng.choice(KINDS)
            kill(tool, kind, run, rng)
            tally.kills += 1
            look(part, run, kind, tally)
        run_to_its_end(part, run)
        tally.runs += 1
        found = part.results(run)
        wrong = [name for name in {*expected, *found} if not equal(expected.get(name), found.get(name))]
        left = [path for path in run.rglob(".*") if path.name.endswith((".tmp", ".partial")) or ".staged." in path.name]
        for what in (*wrong, *left):
            LOG.error("%s: '%s' in '%s'", part.name, what, run)
        tally.different += bool(wrong)
        tally.leftovers += len(left)
    LOG.info("%s: %s, %.1f minutes", part.name, tally, (time.monotonic() - began) / 60)
    return tally


def start(part: Part, run: Path) -> Tool:
    """The command, in a folder by which all its processes can be told."""
    place = run.with_name(f"{run.name}.cwd")
    place.mkdir(parents=True, exist_ok=True)
    return Tool(ROOT / "tools" / part.tool, *part.words(run), cwd=place)


def run_to_its_end(part: Part, run: Path) -> None:
    """Starts it until it is done: a job whose process was killed may have failed, and is tried again."""
    for _ in range(5):
        tool = start(part, run)
        _, said = tool.communicate(timeout=600)
        if tool.returncode == 0:
            return
    raise AssertionError(f"{part.name} ends in {tool.returncode}:\n{said}")


def processes(run: Path) -> list[int]:
    """Those of the commands that were started for a folder, orphans too."""
    place, found = str(run.with_name(f"{run.name}.cwd")), []
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and os.readlink(f"/proc/{entry.name}/cwd") == place:
                found.append(int(entry.name))
        except OSError:  # it has just ended, or is not ours
            continue
    return found


def kill(tool: Tool, kind: str, run: Path, rng: random.Random) -> None:
    """SIGKILL; afterwards the command has ended, and with "all" every process of it."""
    victims = {"command": [tool.pid], "all": processes(run), "one": rng.sample(processes(run) or [tool.pid], 1)}[kind]
    for pid in victims:
        send_kill(pid)
    deadline = time.monotonic() + 3
    while kind == "one" and tool.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if tool.poll() is None:
        tool.send_signal(signal.SIGKILL)
    tool.communicate(timeout=60)
    while kind == "all" and (left := processes(run)):
        for pid in left:
            send_kill(pid)
        time.sleep(0.01)


def send_kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def look(part: Part, run: Path, kind: str, tally: Tally) -> None:
    """Every file can be read, and no lock is held by who was killed."""
    for path in (path for path in run.rglob("*") if path.is_file()):
        try:
            read(path)
        except FileNotFoundError:  # an orphan has just replaced it
            continue
        except Exception as error:
            LOG.error("%s: '%s' cannot be read after a kill: %s", part.name, path, error)
            tally.unreadable += 1
    if part.jobs and kind != "all":
        return
    for folder in (run, *(path for path in run.rglob("*") if path.is_dir())):
        if (who := lock.worker_in(folder)) is not None:
            LOG.error("%s: '%s' is locked by %s, which was killed", part.name, folder, who)
            tally.stuck += 1


def read(path: Path) -> None:
    """Raises if what a file's name promises cannot be read from it; what is half-written has no such name."""
    if path.name.startswith(".") or "jobs" in path.parts:
        return
    if path.name.endswith((".pth", ".pth.tar")):
        checkpoint.load(path)
    elif path.suffix == ".json" and path.name != "metrics.json":  # Detectron2's own, one line per iteration
        json.loads(path.read_text())
    elif path.suffix == ".yaml":
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    elif path.suffix == ".npy":
        np.load(path)
    elif path.name == "last_checkpoint":
        assert (path.parent / path.read_text()).is_file()


def tensors(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint, by its place."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, (dict, list, tuple)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors(value, f"{name}/{key}")


def equal(a: Any, b: Any) -> bool:
    """Bit by bit; NaN is NaN."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    return bool(a == b) or (a != a and b != b)
