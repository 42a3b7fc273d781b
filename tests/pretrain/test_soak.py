"""A run that is killed again and again, at random, ends in the bits of one that was left alone.

SOAK_MINUTES is how long the killed run trains, without its restarts (default 1), SOAK_SECONDS between which numbers of
seconds a process lives before it is killed (default "8,20"):

    SOAK_MINUTES=20 SOAK_SECONDS=20,60 python -m pytest -m slow tests/pretrain/test_soak.py --log-cli-level INFO
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pretrain.runtime import checkpoint
from pretrain.runtime.log import read_metrics
from tests.pretrain.conftest import ROOT, TINY, write_images

LOG = logging.getLogger(__name__)
MINUTES = float(os.environ.get("SOAK_MINUTES", "1"))
LIFE = [float(s) for s in os.environ.get("SOAK_SECONDS", "8,20").split(",")]


def command(images: Path, folder: Path, iterations: int) -> list[str]:
    opts = ["DATA.TRAIN", images, "OUTPUT_DIR", folder, "DATA.NUM_WORKERS", 1, "CHECKPOINT.PERIOD", 7]
    opts += ["SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", iterations, "SOLVER.SCHEDULE", "exponential"]
    tool = [sys.executable, ROOT / "tools" / "train_moco.py", "--config-file", TINY, "--resume", "auto"]
    return [str(word) for word in [*tool, *opts]]


@pytest.mark.slow
def test_killed_at_random_equals_left_alone(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 100)
    subprocess.run(command(images, tmp_path / "short", 40), check=True, capture_output=True)
    seconds = checkpoint.load(tmp_path / "short" / "checkpoint_last.pth.tar")["seconds"]
    iterations = int(MINUTES * 60 / seconds * 40)
    subprocess.run(command(images, tmp_path / "whole", iterations), check=True, capture_output=True)

    rng, kills, at, unread = random.Random(0), 0, 0, 0
    last = tmp_path / "killed" / "checkpoint_last.pth.tar"
    began = time.monotonic()
    while True:
        process = subprocess.Popen(
            command(images, tmp_path / "killed", iterations), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, said = process.communicate(timeout=rng.uniform(*LIFE))
            assert process.returncode == 0, said.decode()
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        if last.exists():
            reached = checkpoint.load(last)["iteration"]  # raises if it cannot be read
            assert reached >= at
            at = reached
        unread += not last.exists()
    minutes = (time.monotonic() - began) / 60
    LOG.info("%d iterations, %d kills in %.1f minutes, %d before a checkpoint", iterations, kills, minutes, unread)
    assert kills >= 2

    whole, killed = (checkpoint.load(tmp_path / name / "checkpoint_last.pth.tar") for name in ("whole", "killed"))
    assert killed["iteration"] == whole["iteration"] == iterations
    assert whole["state_dict"].keys() == killed["state_dict"].keys()
    assert all(torch.equal(value, killed["state_dict"][name]) for name, value in whole["state_dict"].items())
    momenta = [run["optimizer"]["state"] for run in (whole, killed)]
    assert all(torch.equal(momenta[0][i]["momentum_buffer"], momenta[1][i]["momentum_buffer"]) for i in momenta[0])
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    assert [(line["iteration"], line["loss"]) for line in lines[0]] == [
        (line["iteration"], line["loss"]) for line in lines[1]
    ]
    assert not list((tmp_path / "killed").rglob(".*.tmp"))
