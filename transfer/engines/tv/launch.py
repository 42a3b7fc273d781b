"""Runs a job in one process or in several, and reads its result from its file either way."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp
from fvcore.common.config import CfgNode

from pretrain.runtime import dist
from pretrain.runtime.alone import alone_in
from pretrain.runtime.log import setup_logging
from pretrain.runtime.result import RunResult
from transfer.engines import base, machines, resolve, results, resume
from transfer.engines.data import check_run_data
from transfer.engines.tv.adapters import check_support, part_names


def launch(job: Callable[..., None], cfg: CfgNode, processes: int, mode: str | None = None) -> RunResult:
    """Runs a job here or in `processes` processes; in a process group (torchrun) this process is already one of them.

    Args:
        job: called with `cfg`, and with `mode` if it is a training.
        mode: how to resume (see `Engine.train`); None for an evaluation.
    """
    check_support(cfg)
    args = () if mode is None else (mode,)
    if mode is None:
        resume.check_evaluation(Path(cfg.OUTPUT_DIR))
        resolve.detector_file(cfg, "--eval-only")
    else:
        base.check_batch(cfg, max(processes, dist.world_size()))
    warnings = [] if mode is None else base.lint_before_training(cfg, part_names())
    warnings += check_run_data(cfg, training=mode is not None)
    with alone_in(cfg.OUTPUT_DIR):
        if processes > 1 and dist.world_size() == 1:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            with machines.spawning(processes):
                mp.spawn(_worker, args=(job, processes, port, cfg, args), nprocs=processes)
        else:
            machines.check_shared(Path(cfg.OUTPUT_DIR))
            job(cfg, *args)
        return results.add_notes(cfg.OUTPUT_DIR, warnings)


def _worker(
    rank: int, job: Callable[..., None], processes: int, port: int, cfg: CfgNode, args: tuple[str, ...]
) -> None:
    backend = "gloo"
    if resolve.device(cfg.MODEL.DEVICE).startswith("cuda"):
        torch.cuda.set_device(rank)
        backend = "nccl"
    setup_logging(cfg.OUTPUT_DIR, rank)
    torch.distributed.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    try:
        job(cfg, *args)
    finally:
        dist.shutdown()
