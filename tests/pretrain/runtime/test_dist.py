"""One process and several take the same path."""

from __future__ import annotations

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
