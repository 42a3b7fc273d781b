"""Sets up what every kind of run needs: a device, a process group, and a folder that may hold an interrupted run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.result import FILE_NAME, RunResult

Resume = Literal["no", "yes", "auto"]


@contextmanager
def session(device_name: str) -> Iterator[torch.device]:
    """Lends this process's device; inside, the processes that `torchrun` has started, if any, form one group.

    Args:
        device_name: auto | cpu | cuda.

    Raises:
        ConfigError: cuda is asked for, and torch sees no CUDA device.
    """
    available = torch.cuda.is_available()
    if device_name == "cuda" and not available:
        raise ConfigError("DEVICE is 'cuda', but torch sees no CUDA device; set DEVICE cpu or auto")
    kind = "cuda" if device_name == "cuda" or (device_name == "auto" and available) else "cpu"
    owns_group = not dist.is_initialized()
    dist.init_from_env(kind)
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True  # as the reference: all batches have one shape
    try:
        yield torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    finally:
        if owns_group:
            dist.shutdown()


def finished(folder: Path, **expected: Any) -> RunResult | None:
    """Returns the result in the folder if its attributes are the `expected` ones, else None; equal in all processes.

    Raises:
        ConfigError: there is a result file that this version cannot read.
    """
    result = None
    if dist.is_main() and (folder / FILE_NAME).is_file():
        try:
            result = RunResult.load(folder)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if any(getattr(result, name) != value for name, value in expected.items()):
            result = None
    return dist.broadcast_object(result)


def resume_point(last: Path, resume: Resume) -> Path | None:
    """Returns the checkpoint to continue, or None to start afresh.

    Args:
        last: path of the checkpoint, whether it exists or not.
        resume: "no" starts afresh and refuses if there is a checkpoint; "yes" refuses if there is none; "auto" refuses
            nothing.

    Raises:
        ConfigError: `resume` is "no" and there is a checkpoint, or "yes" and there is none.
        ValueError: `resume` is none of these.
    """
    if resume not in get_args(Resume):
        raise ValueError(f"resume is {resume!r}; it must be one of {get_args(Resume)}")
    if resume == "no" and last.exists():
        raise ConfigError(f"'{last}' exists; continue it with --resume, or choose another OUTPUT_DIR")
    if resume == "yes" and not last.exists():
        raise ConfigError(f"nothing to resume: '{last}' does not exist; leave --resume out, or use --resume auto")
    return last if resume != "no" and last.exists() else None


def prepare(folder: Path, cfg: CfgNode, iteration: int) -> MetricsWriter:
    """Makes the output folder, writes the config there and removes an earlier run's result; for the main process.

    Args:
        iteration: the iteration at which the run starts or goes on.

    Returns:
        The writer of the metrics.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).unlink(missing_ok=True)  # of another config: it would speak for this run
        with checkpoint.atomic_write(folder / "config.yaml", "w") as f:
            f.write(cfg.dump())
        return MetricsWriter(folder, start_iteration=iteration, tensorboard=cfg.TENSORBOARD)
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR '{folder}' cannot be written ({error.strerror}); choose another folder"
        ) from error
