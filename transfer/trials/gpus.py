"""Assigns GPUs to the trials that run side by side on this machine."""

from __future__ import annotations

import importlib.util
import logging
import os

import torch

from pretrain.runtime.config import ConfigError

logger = logging.getLogger(__name__)


def gpu_slots(num_gpus: int, jobs: int, per_gpu: int = 1) -> list[tuple[int, ...]]:
    """Returns the GPUs of each chain that runs side by side here; the tuples are empty if there is nothing to assign.

    Args:
        num_gpus: number of GPUs of one chain.
        jobs: number of chains; 0 takes as many as there are GPUs for, or one without any GPU or without submitit.
        per_gpu: number of chains that share a GPU.

    Raises:
        ConfigError: more GPUs are wanted than there are, or GPUs are not named by number.
    """
    count = torch.cuda.device_count()
    apart = count // num_gpus
    places = apart * per_gpu
    if jobs == 0 and places > 1 and importlib.util.find_spec("submitit") is None:
        logger.warning("submitit is not installed: trials run one after the other, on %d of %d GPUs", num_gpus, count)
        jobs = 1
    jobs = jobs or max(places, 1)
    if count == 0 or jobs == 1:
        return [()] * jobs
    if jobs > places:
        share = f"--jobs, or let them share with --jobs-per-gpu {-(-jobs // apart)}" if apart else "--num-gpus"
        raise ConfigError(f"{jobs} jobs of {num_gpus} GPUs side by side, but there are {count}: lower {share}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    names = [name.strip() for name in visible.split(",")]
    if not all(name.isdigit() for name in names):
        raise ConfigError(f"CUDA_VISIBLE_DEVICES={visible}: to run trials side by side, name the GPUs by number")
    groups = [tuple(map(int, names[i * num_gpus : (i + 1) * num_gpus])) for i in range(apart)]
    return [groups[i % apart] for i in range(jobs)]
