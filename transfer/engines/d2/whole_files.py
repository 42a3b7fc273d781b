"""Makes what Detectron2 writes and logs itself follow this project's rules: whole files, one sentence per fault."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.log import say_once
from pretrain.runtime.machine import fault


class WholeFiles:
    """Serves a checkpointer as Detectron2's path manager: files are whole or absent, and errors name the file."""

    def open(self, path: str, mode: str = "r", **options: Any) -> Any:
        """Returns a context manager that gives the open file."""
        if mode == "wb":
            return checkpoint.checkpoint_file(path)
        if mode == "w":
            return checkpoint.atomic_write(path, mode)
        return PathManager.open(path, mode, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)


def set_up(cfg: CfgNode, eval_only: bool) -> None:
    """Runs Detectron2's `default_setup`, except that `config.yaml` is written whole: a kill cannot leave half of it."""
    rank = dist.rank()
    if dist.is_main():
        PathManager.mkdirs(cfg.OUTPUT_DIR)
    for name in ("fvcore", "detectron2"):  # an earlier run of this process logs no more
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    for handler in (*logger.handlers, *logging.getLogger("fvcore").handlers):
        say_once(handler, str(Path(cfg.OUTPUT_DIR) / "log.txt"))
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_sentence)
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Running with full config:\n%s", cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if precision := cfg.get("FLOAT32_PRECISION", ""):  # older ones have no such key
        torch.set_float32_matmul_precision(precision)


def save_config(cfg: CfgNode) -> None:
    """Writes `config.yaml` as Detectron2 does."""
    if dist.is_main():
        with checkpoint.atomic_write(Path(cfg.OUTPUT_DIR) / "config.yaml", "w") as f:
            f.write(cfg.dump())


def _is_no_sentence(record: logging.LogRecord) -> bool:
    """Returns False for the traceback that Detectron2 logs for an error that ends the command in one sentence."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    return not isinstance(error, (ExpectedError, OSError, FloatingPointError)) and fault(error) is None
