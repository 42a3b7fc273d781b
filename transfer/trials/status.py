"""Reads the state of every run under a folder from the files that runs leave. It imports no torch: quick over ssh.

rows/torchvision/moco-v2/seed_1   running   12000/24000  50%   3:10:00   total_loss 0.52   12 s ago

A run's locks say whether it lives. Files may hold anything; those that cannot be read are left out.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime import lock
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.files import open_regular, read_record
from pretrain.runtime.strict_yaml import load_yaml
from transfer.evaluation.protocols import PROTOCOLS

# The names are those of pretrain.runtime.log, pretrain.runtime.result, stages and failure; importing these takes torch.
METRICS, RESULT, RECORD, FAILED = "metrics.jsonl", "result.json", "stage.json", "failed.json"
_TAIL = 1 << 16  # bytes of a metrics file that are read
_SKIPPED = ("data", "tensorboard", "jobs", "__pycache__")
_GROUPS = {
    "linear": "linear/",
    "finetune": "finetune/",
    "pretrain": "pretext/",
}  # kind of result -> what protocols put before its metrics
_HUGE = 1e15  # no count, rate or time of a run is larger
_LOSSES = ("loss", "total_loss")


@dataclass(frozen=True)
class Run:
    """Holds one run's state.

    Attributes:
        name: the run's folder below the requested one, printable.
        state: "done", "failed", "running", "stopped", or "unknown" where the file system has no locks to ask.
        done, total: numbers of iterations; None where unknown.
        eta: seconds until it is done; None unless it is running and its rate is known.
        metric: the newest number, or why the run failed.
        age: seconds since the run last wrote.
    """

    name: str
    state: str
    done: int | None = None
    total: int | None = None
    eta: float | None = None
    metric: str = ""
    age: float | None = None


def runs(folder: Path, now: float | None = None) -> Iterator[Run]:
    """Yields every run below `folder` in the order of their paths, without those that were set aside as stale."""
    now = time.time() if now is None else now
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and ".stale" not in name)
        name = os.fsencode(os.path.relpath(path, folder)).decode("utf-8", "backslashreplace")
        if {METRICS, RESULT, RECORD, FAILED} & set(files) or (lock.RUN in files and _life(Path(path)) == "running"):
            yield _run(Path(path), name, now)


def _run(folder: Path, name: str, now: float) -> Run:
    lines = _tail(folder / METRICS)
    done = lines[-1]["iteration"] + 1 if lines else None
    written = [when for n in (METRICS, "log.txt", RECORD) if (when := _written(folder / n)) is not None]
    age = max(now - max(written), 0.0) if written else None
    life = _life(folder)
    result, record, failure = _json(folder / RESULT), _json(folder / RECORD), _json(folder / FAILED)
    if life != "running":
        if failure is not None:
            return Run(name, "failed", done, None, None, " ".join(str(failure.get("error", "")).split()), age)
        if record is not None and "outputs" in record or record is None and result is not None:
            return Run(name, "done", done, done, None, _headline(result or {}), age)
    total, batch = _size(folder, lines)
    eta = _eta(lines, done, total, batch) if life == "running" else None
    eta = None if eta is None else max(eta - (age or 0.0), 0.0)
    return Run(name, life, done, total, eta, _newest(lines), age)


def _life(folder: Path) -> str:
    """Returns what the locks of a folder say: "running", "stopped" or "unknown"."""
    try:
        return "stopped" if lock.worker_in(folder) is None else "running"
    except lock.LockError:
        return "unknown"


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _size(folder: Path, lines: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """Returns the number of iterations of the whole run, and the images per batch."""
    try:
        config = load_yaml(folder / "config.yaml")
    except ConfigError:
        return None, None
    solver = config.get("SOLVER") if isinstance(config, dict) else None
    if not isinstance(solver, dict):
        return None, None
    if "MAX_ITER" in solver:
        return _count(solver["MAX_ITER"]), _count(solver.get("IMS_PER_BATCH"))
    batch = _count(solver.get("BATCH_SIZE"))
    if iterations := _count(solver.get("ITERATIONS")):
        return iterations, batch
    epochs = [(epoch, line["iteration"] + 1) for line in lines if (epoch := _number(line.get("epoch"))) and epoch > 0]
    wanted = _number(solver.get("EPOCHS"))
    if not epochs or wanted is None:
        return None, batch
    total = _number(epochs[-1][1] / epochs[-1][0] * wanted)
    return None if total is None else round(total), batch


def _eta(lines: list[dict[str, Any]], done: int | None, total: int | None, batch: int | None) -> float | None:
    """Returns the seconds left after the last line, as the run says, else by the mean rate of its last ten lines."""
    if lines and (said := _number(lines[-1].get("eta_seconds"))) is not None:
        return said
    rates = [rate for line in lines[-10:] if (rate := _number(line.get("images_per_second"))) and rate > 0]
    if not rates or done is None or total is None or not batch:
        return None
    return _number((total - done) * batch * len(rates) / sum(rates))


def _headline(result: dict[str, Any]) -> str:
    """Returns the result's headline metric, named by the protocol that knows most of the result's metrics."""
    given, group = result.get("metrics"), _GROUPS.get(str(result.get("kind")), "")
    metrics = {k if "/" in k else group + k: _number(v) for k, v in given.items()} if isinstance(given, dict) else {}
    protocol = max(PROTOCOLS.values(), key=lambda p: sum(m.key in metrics for m in p.metrics))
    known = [m for m in protocol.metrics if metrics.get(m.key) is not None]
    shown = [m for m in known if m.rule is not None] or known[:1]
    return ", ".join(f"{m.label} {metrics[m.key]:.1f}" for m in shown)


def _newest(lines: list[dict[str, Any]]) -> str:
    values = ((n, _number(line.get(n))) for line in reversed(lines) for n in _LOSSES)
    return next((f"{name} {value:.4g}" for name, value in values if value is not None), "")


def _number(value: Any) -> float | None:
    """Returns a finite number as it is, and None for anything else."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE
    return float(value) if usable else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _HUGE else None


def _tail(path: Path) -> list[dict[str, Any]]:
    """Returns the last lines of a metrics file without broken ones (the first and the last may be cut)."""
    try:
        with open_regular(path) as f:
            f.seek(max(os.fstat(f.fileno()).st_size - _TAIL, 0))
            texts = f.read(_TAIL).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and _count(line.get("iteration")) is not None:
            lines.append(line)
    return lines


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(read_record(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def screen(found: list[Run], width: int) -> str:
    """Returns a table at most `width` characters wide; long names lose their beginning, long messages their end."""
    if not found:
        return "no runs"
    rows = [("run", "state", "iterations", "", "left", "written", "last")]
    rows += [(r.name, r.state, *_progress(r), _duration(r.eta), _ago(r.age), r.metric) for r in found]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - 12 - 24, 16))
    lines = []
    for row in rows:
        name = row[0] if len(row[0]) <= widths[0] else "…" + row[0][1 - widths[0] :]
        cells = [name.ljust(widths[0]), row[1].ljust(widths[1]), *(row[i].rjust(widths[i]) for i in range(2, 6))]
        line = "  ".join([*cells, row[6]])[:width].rstrip()
        lines.append("".join(c if c.isprintable() else "?" for c in line))
    counts = Counter(r.state for r in found)
    summary = ", ".join(f"{counts[s]} {s}" for s in ("done", "running", "stopped", "failed", "unknown") if counts[s])
    return "\n".join([*lines, "", f"{len(found)} runs: {summary}"])


def _progress(run: Run) -> tuple[str, str]:
    if run.done is None:
        return "", ""
    if not run.total:
        return str(run.done), ""
    return f"{run.done}/{run.total}", f"{100 * run.done // run.total}%"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d {h:02}:{m:02}" if days else f"{h}:{m:02}:{s:02}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
