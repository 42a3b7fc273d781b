"""Defines a run's random numbers by one seed, which reaches every process and worker; checkpoints hold its state."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def derive(seed: int, *path: int) -> int:
    """Returns a 63-bit seed that depends on `seed` and on every element of `path`, and is the same on every machine.

    Use it for anything that must not depend on execution order: `derive(seed, epoch)`, `derive(seed, epoch, index)`.
    """
    words = np.random.SeedSequence(entropy=seed, spawn_key=path).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seeds Python, NumPy and torch (all devices) of this process; different ranks get different streams."""
    value = derive(seed, rank) if rank else seed
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def capture_rng() -> dict[str, Any]:
    """Returns the state of every generator of this process as tensors and plain numbers, for weights_only=True."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    assert kind == "MT19937"
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Sets every generator back to the state that `capture_rng` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
