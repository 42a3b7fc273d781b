"""One process and several take the same path."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.runtime import dist
from tests.processes import run_in_processes


def everything() -> dict[str, Any]:
    x = torch.arange(4.0).view(2, 2) + 10 * dist.rank()
    return {
        "rank": (dist.rank(), dist.world_size(), dist.is_main(), dist.is_initialized()),
        "gathered": dist.all_gather(x.T),  # not contiguous
        "objects": dist.gather_objects({"rank": dist.rank()}),
        "broadcast": dist.broadcast_object(f"from {dist.rank()}"),
    }


def test_one_process() -> None:
    alone = everything()
    assert alone["rank"] == (0, 1, True, False)
    assert torch.equal(alone["gathered"], torch.arange(4.0).view(2, 2).T)
    assert alone["objects"] == [{"rank": 0}] and alone["broadcast"] == "from 0"
    dist.barrier()
    dist.shutdown()


def test_two_processes(tmp_path: Path) -> None:
    for rank, seen in enumerate(run_in_processes(everything, tmp_path)):
        assert seen["rank"] == (rank, 2, rank == 0, True)
        assert seen["gathered"].tolist() == [[0, 2], [1, 3], [10, 12], [11, 13]]
        assert seen["objects"] == [{"rank": 0}, {"rank": 1}] and seen["broadcast"] == "from 0"


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ({}, {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        assert dist.init_from_env("cpu") is False and not dist.is_initialized()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"MASTER_ADDR": "127.0.0.1", "RANK": "0"}, "at 127.0.0.1:None: .*MASTER_PORT"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, "at 127.0.0.1:29500: .*RANK"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "{taken}", "RANK": "0"}, "at 127.0.0.1:{taken}: "),
    ],
)
def test_a_group_that_cannot_be_joined_is_said_in_one_line(
    given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        taken = str(s.getsockname()[1])
        for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"WORLD_SIZE": "2", **given}.items():
            monkeypatch.setenv(name, value.replace("{taken}", taken))
        with pytest.raises(
            dist.GroupError, match="^cannot join the process group " + message.replace("{taken}", taken)
        ):
            dist.init_from_env("cpu")


def test_a_process_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(dist.GroupError, match="process 1 has no GPU, there are 1: start fewer"):
        dist.init_from_env("cuda")
