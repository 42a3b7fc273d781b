"""Several machines: which options go together, what the started processes are told, how they end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
from pathlib import Path

import pytest
import torch.multiprocessing as mp

from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from tests.processes import start_processes
from transfer.engines import machines
from transfer.engines.base import EngineError
from transfer.engines.machines import Machines


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0, ""), "--num-machines 0"),
        ((2, 2, "tcp://a:1"), "--machine-rank 2 of --num-machines 2: machines are numbered from 0"),
        ((1, 1, ""), "--machine-rank 1 of --num-machines 1"),
        ((2, -1, "tcp://a:1"), "--machine-rank -1"),
        ((2, 0, ""), "2 machines need tcp://HOST:PORT"),
        ((2, 0, "auto"), "--dist-url 'auto'"),
        ((2, 0, "tcp://a"), "--dist-url 'tcp://a'"),
    ],
)
def test_options_that_do_not_go_together(values, message):
    with pytest.raises(EngineError, match=message):
        Machines(*values)


def report(args: argparse.Namespace) -> int:
    """What a started process was told, in a file; the code that it is to end with."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    (args.folder / os.environ["RANK"]).write_text(json.dumps([os.environ[name] for name in names]))
    return args.codes[int(os.environ["LOCAL_RANK"])]


def options(folder: Path, codes: list[int], rank: int = 1) -> argparse.Namespace:
    return argparse.Namespace(
        num_gpus=2, num_machines=3, machine_rank=rank, dist_url="tcp://host:29", folder=folder, codes=codes
    )


@pytest.mark.slow
def test_processes_are_told_what_torchrun_tells(tmp_path, monkeypatch):
    assert machines.start(report, options(tmp_path, [0, 0])) == 0
    for local, rank in enumerate((2, 3)):
        told = json.loads((tmp_path / str(rank)).read_text())
        assert told == [str(rank), "6", str(local), "2", "host", "29"]
    assert "RANK" not in os.environ
    assert Machines(3, 1, "tcp://host:29").start(1, report, options(tmp_path, [5])) == 5
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(EngineError, match="under torchrun the machines are torchrun's to number"):
        machines.start(report, options(tmp_path, [0, 0]))


def test_one_machine_runs_here(tmp_path):
    one = argparse.Namespace(num_machines=1, machine_rank=0, dist_url="")
    assert machines.start(lambda args: 7 if args is one else 1, one) == 7


def test_a_group_that_cannot_be_joined(monkeypatch):
    machines.join("cpu")  # no group is described
    assert not dist.is_initialized()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port), ("WORLD_SIZE", "2"), ("RANK", "0")):
            monkeypatch.setenv(name, value)
        with pytest.raises(dist.GroupError, match=f"cannot join the process group at 127.0.0.1:{port}"):
            machines.join("cpu")


def see_folder(args: argparse.Namespace) -> int:
    """0 if `check_shared` is content with one folder and not with two."""
    machines.join("cpu")
    machines.check_shared(args.folder)
    with pytest.raises(EngineError, match="is not the same folder on all machines .processes .1. do not see it"):
        machines.check_shared(args.folder / os.environ["RANK"])
    dist.shutdown()
    return 0


@pytest.mark.slow
def test_machines_must_share_the_output_folder(tmp_path):
    processes = []
    port = free_port()
    context = mp.get_context("spawn")
    for rank in range(2):
        args = argparse.Namespace(
            num_gpus=1, num_machines=2, machine_rank=rank, dist_url=f"tcp://127.0.0.1:{port}", folder=tmp_path
        )
        processes.append(context.Process(target=exit_with, args=(args,)))
        processes[-1].start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def exit_with(args: argparse.Namespace) -> None:
    raise SystemExit(machines.start(see_folder, args))


@pytest.mark.parametrize(("processes", "passed_on"), [(1, False), (2, True)])
def test_stop_signals_are_taken_only_for_other_processes(processes, passed_on):
    before = signal.getsignal(signal.SIGTERM)
    with machines.spawning(processes):
        assert (signal.getsignal(signal.SIGTERM) != before) == passed_on
    assert signal.getsignal(signal.SIGTERM) == before


def refuse(rank: int, error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("SEED is -2;\ntake another"), "SEED is -2;\ntake another"),
        (FloatingPointError("the loss is nan"), "the loss is nan"),
        (RuntimeError("a bug"), "a process of 2 failed:"),
    ],
)
def test_what_a_process_was_expected_to_die_of_is_said_without_a_traceback(error, expected):
    with pytest.raises(EngineError) as caught, machines.spawning(2):
        start_processes(refuse, (error,), 1)
    assert str(caught.value).startswith(expected)
    assert ("Traceback" in str(caught.value)) == isinstance(error, RuntimeError)


def wrong(args: argparse.Namespace) -> int:
    raise ConfigError("SEED is -2; take another")


def test_a_started_process_says_what_is_wrong_itself(tmp_path, capfd):
    assert Machines(1, 0, "tcp://host:29").start(1, wrong, options(tmp_path, [])) == 2
    assert capfd.readouterr().err.count("error: SEED is -2; take another\n") == 1
