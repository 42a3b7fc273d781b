"""Writes what a run reports: the log (screen and file), metrics (JSON lines and TensorBoard), and a progress bar."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import RECORD_BYTES, read_regular
from pretrain.runtime.wording import VisibleFormatter


def setup_logging(output_dir: str | os.PathLike[str] | None, rank: int = 0) -> None:
    """Logs rank 0 to the screen, and every rank to `output_dir/log.txt` (`log.txt.rank1`, ... for the others).

    Raises:
        ConfigError: the folder does not exist and cannot be made.
    """
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        with suppress(OSError):  # of a full disk, on which lines are still to be written
            handler.close()
    line = VisibleFormatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S")
    if rank == 0:
        screen: logging.Handler = _TqdmHandler()
        screen.setFormatter(line)
        root.addHandler(screen)
    if output_dir is not None:
        try:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(Path(output_dir) / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
        except OSError as error:
            raise ConfigError(
                f"OUTPUT_DIR '{output_dir}' cannot be written ({error.strerror}); choose another folder"
            ) from error
        say_once(file, file.baseFilename)
        file.setFormatter(line)
        root.addHandler(file)


def say_once(handler: logging.Handler, name: str) -> None:
    """Lets a handler say once, on the screen, that its file cannot be written; the run goes on without the file."""
    said: list[OSError] = []

    def lost(record: logging.LogRecord) -> None:
        if not isinstance(error := sys.exc_info()[1], OSError):
            type(handler).handleError(handler, record)
        elif not said:
            said.append(error)
            tqdm.write(f"'{name}' cannot be written ({error.strerror}): lines are missing", sys.stderr)

    handler.handleError = lost  # type: ignore[method-assign]


class _TqdmHandler(logging.Handler):
    """Writes lines above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def progress(total: int, desc: str, unit: str = "it", initial: int = 0, disable: bool = False) -> tqdm:
    """Returns a bar with ETA and rate on standard error.

    Off a terminal it is redrawn every 10 s, so that log files stay short.
    """
    terminal = sys.stderr.isatty()
    return _Bar(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        disable=disable,
        mininterval=0.2 if terminal else 10.0,
        miniters=1,
        dynamic_ncols=terminal,
        ncols=None if terminal else 110,
    )


class _Bar(tqdm):
    """tqdm with a clock that nobody can set: if the wall clock were put back, tqdm would stand still for as long."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if not self.disable:
            self._time = time.monotonic
            self.start_t = self.last_print_t = self._time()


class MetricsWriter:
    """Appends `{"iteration": i, name: value, ...}` lines to `metrics.jsonl`, and the same scalars to TensorBoard.

    Args:
        output_dir: the folder of the run.
        start_iteration: the first iteration of this process. Lines that an earlier, killed process wrote for it or
            later ones are removed, so that no iteration is in the file twice.
        tensorboard: whether to write TensorBoard events too (in `output_dir/tensorboard`).
    """

    def __init__(self, output_dir: str | os.PathLike[str], start_iteration: int = 0, tensorboard: bool = True):
        self.path = Path(output_dir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(self.path) if line["iteration"] < start_iteration]
        with atomic_write(self.path, "w") as f:
            f.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(self.path, "a", buffering=1)
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(Path(output_dir) / "tensorboard"), purge_step=start_iteration)

    def write(self, iteration: int, **scalars: float) -> None:
        """Writes one line of metrics. Values that are not finite become null (JSON has no NaN); TensorBoard skips them.

        Raises:
            OSError: the disk is full; the error names the file.
        """
        clean = {k: float(v) if math.isfinite(v) else None for k, v in scalars.items()}
        try:
            self._file.write(json.dumps({"iteration": iteration, **clean}) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if self._board is not None:
            for name, value in clean.items():
                if value is not None:
                    self._board.add_scalar(name, value, iteration)

    def close(self) -> None:
        with suppress(OSError):  # a line that could not be written is tried again; `write` has raised that
            self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_scalar(value: Any) -> bool:
    """Returns whether `MetricsWriter` can have written the value: a finite number, or null for one that was not."""
    return value is None or isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a `metrics.jsonl`, empty if there is no file.

    Reading ends at the first invalid line, such as the incomplete last one of a killed run.

    Raises:
        OSError: the path is something other than a regular file.
    """
    lines: list[dict[str, Any]] = []
    try:
        texts = read_regular(path, RECORD_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        known = {k: v for k, v in line.items() if _is_scalar(v)} if isinstance(line, dict) else {}
        if not isinstance(known.get("iteration"), int):
            break
        lines.append(known)
    return lines
