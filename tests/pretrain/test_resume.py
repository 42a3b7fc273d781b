"""A run that a signal stopped ends in the bits of one that nothing stopped: every mechanism, one process and two."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain import loop
from pretrain.config import get_cfg
from pretrain.encoders import ARCHITECTURES
from pretrain.run import main
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError, merge_file, merge_opts
from pretrain.runtime.log import read_metrics
from pretrain.runtime.preempt import Preempted, StopRequest
from tests.pretrain.conftest import ROOT, TINY, MakeCfg
from tests.pretrain.data.test_shards import write_shards
from tests.processes import Tool, run_in_processes

NO_SHUFFLE: list[object] = ["MODEL.SHUFFLE_BN", False]
CASES: dict[str, list[object]] = {
    "moco": ["MODEL.MECHANISM", "moco", "SOLVER.AMP", "bf16", "SOLVER.ACCUMULATE", 2, "SPEED.CHANNELS_LAST", True],
    "end_to_end": ["MODEL.MECHANISM", "end_to_end", "SOLVER.AMP", "fp16"],
    "memory_bank": ["MODEL.MECHANISM", "memory_bank", "MODEL.BANK_LOSS", "nce", *NO_SHUFFLE],
    "simclr": [*NO_SHUFFLE, "MODEL.MECHANISM", "simclr", "SOLVER.OPTIMIZER", "lars", "SOLVER.AMP", "fp16"],
    "supervised": [*NO_SHUFFLE, "MODEL.MECHANISM", "supervised", "SOLVER.ACCUMULATE", 2, "SOLVER.AMP", "bf16"],
}
FROM_SHARDS = [case for case in CASES if case != "supervised"]  # shards hold no labels
STATE = {
    "moco": {"encoder_q", "encoder_k", "queue", "queue_ptr"},
    "end_to_end": {"encoder_q", "encoder_k"},
    "memory_bank": {"encoder_q", "bank", "Z"},
    "simclr": {"encoder_q"},
    "supervised": {"encoder_q"},
}
LENGTH = ["SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", 5, "SOLVER.SCHEDULE", "exponential", "SOLVER.PERIOD", 2]


class Small(nn.Module):
    """An encoder of milliseconds: (N, 3, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int, norm_layer: Callable[[int], nn.Module]):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 16, 3, stride=4), norm_layer(16), nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


def stop_and_go_on(case: str, images: Path | str, folder: Path) -> dict[str, Any]:
    """Runs 5 iterations in one go, and again with SIGUSR1 sent to the last process in iteration 2; both final files."""

    def cfg(name: str) -> Any:
        groups = 2 if dist.world_size() == 1 and case != "memory_bank" else 1
        tree = get_cfg()
        merge_file(tree, TINY)
        opts = ["DATA.TRAIN", images, "OUTPUT_DIR", folder / name, "MODEL.ARCH", "small", "MODEL.BN_GROUPS", groups]
        opts += [*LENGTH, *CASES[case], "DATA.SHUFFLE_SHARDS", 2]
        merge_opts(tree, list(map(str, opts)))
        return tree

    ARCHITECTURES["small"] = Small  # type: ignore[assignment]
    main(cfg("whole"))
    plain, steps = loop.train_step, 0

    def signalled(*args: Any, **kw: Any) -> tuple[Tensor, Tensor]:
        nonlocal steps
        steps += 1
        if steps == 2 and dist.rank() == dist.world_size() - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return plain(*args, **kw)

    loop.train_step = signalled
    try:
        main(cfg("stopped"))
        raise AssertionError("nothing stopped the run")
    except Preempted as stop:
        message = str(stop)
    finally:
        loop.train_step = plain
    at = checkpoint.load(folder / "stopped" / "checkpoint_last.pth.tar")["iteration"]
    main(cfg("stopped"), resume="yes")
    return {
        "message": message,
        "at": at,
        **{name: checkpoint.load(folder / name / "checkpoint_last.pth.tar") for name in ("whole", "stopped")},
        "metrics": [
            [(x["iteration"], x["loss"], x["acc1"], x["lr"]) for x in read_metrics(folder / name / "metrics.jsonl")]
            for name in ("whole", "stopped")
        ],
    }


def all_cases(images: Path, shards: str, folder: Path) -> dict[str, dict[str, Any]]:
    results = {case: stop_and_go_on(case, images, folder / case) for case in CASES}
    return results | {
        f"{case}, shards": stop_and_go_on(case, shards, folder / f"{case}-shards") for case in FROM_SHARDS
    }


def assert_equal(result: dict[str, Any]) -> None:
    assert result["message"] == "SIGUSR1: stopped after 2 of 5 iterations" and result["at"] == 2
    whole, stopped = result["whole"], result["stopped"]
    assert whole["state_dict"].keys() == stopped["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(stopped["state_dict"][name], value), name
    for index, entry in whole["optimizer"]["state"].items():
        assert torch.equal(stopped["optimizer"]["state"][index]["momentum_buffer"], entry["momentum_buffer"])
    assert whole["scaler"] == stopped["scaler"]
    for a, b in zip(whole["processes"], stopped["processes"], strict=True):
        assert torch.equal(a["rng"]["torch"], b["rng"]["torch"]) and torch.equal(a["epoch"], b["epoch"])
    assert result["metrics"][0] == result["metrics"][1] and len(result["metrics"][0]) == 3
    assert [line[3] for line in result["metrics"][0]] == pytest.approx([0.03, 0.003, 0.0003])


@pytest.mark.parametrize("case", CASES)
def test_one_process(case: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    result = stop_and_go_on(case, images, tmp_path)
    assert_equal(result)
    assert bool(result["whole"]["scaler"]) == ("fp16" in CASES[case])
    assert {name.split(".")[1] for name in result["whole"]["state_dict"]} == STATE[case]


@pytest.mark.parametrize("case", FROM_SHARDS)
def test_shards(case: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    result = stop_and_go_on(case, write_shards(images, tmp_path / "in", per_shard=7), tmp_path)
    assert_equal(result)
    files = stop_and_go_on(case, images, tmp_path / "files")  # other batches
    assert result["whole"]["data"] != files["whole"]["data"] and result["metrics"] != files["metrics"]


def test_two_processes(images: Path, tmp_path: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    shards = write_shards(images, tmp_path / "in", per_shard=7)
    for results in run_in_processes(all_cases, tmp_path, images, shards, tmp_path):
        assert len(results) == len(CASES) + len(FROM_SHARDS)
        for result in results.values():
            assert_equal(result)
    folder = tmp_path / "moco" / "stopped"
    (folder / "result.json").unlink()  # or it would count as finished
    cfg = make_cfg(images, folder, "MODEL.ARCH", "small", "MODEL.BN_GROUPS", 1, *LENGTH, *CASES["moco"])
    with pytest.raises(ConfigError, match="there were 2 processes, are 1"):
        main(cfg, resume="yes")


def test_tool_leaves_with_the_status_for_requeueing(images: Path, tmp_path: Path) -> None:
    command = [ROOT / "tools" / "train_moco.py", "--config-file", str(TINY), "--resume", "auto"]
    command += ["DATA.TRAIN", str(images), "OUTPUT_DIR", str(tmp_path), "DATA.NUM_WORKERS", "2"]
    command += ["SOLVER.EPOCHS", "1000", "CHECKPOINT.KEEP_EVERY_EPOCHS", "0"]
    process = Tool(*command, group=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() or not read_metrics(tmp_path / "metrics.jsonl"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # to the loader's processes too, as schedulers do
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "SIGTERM: stopped after" in errors.splitlines()[-1] and "Traceback" not in errors
    saved = checkpoint.load(tmp_path / "checkpoint_last.pth.tar")
    assert f"after {saved['iteration']} of 10000 iterations; go on with --resume auto" in errors.splitlines()[-1]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.received == ""
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.received == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
