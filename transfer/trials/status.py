"""Where every run under a folder stands, read from the files that runs leave. Imports no torch: quick over ssh.

rows/torchvision/moco-v2/seed_1   running   12000/24000  50%   3:10:00   total_loss 0.52   12 s ago
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from transfer.trials.lock import holder, lock_file

# The names are those of pretrain.runtime.log, pretrain.runtime.result, stages and failure; importing these takes torch.
METRICS, RESULT, RECORD, FAILED = "metrics.jsonl", "result.json", "stage.json", "failed.json"
_FRESH = 120.0  # seconds; a run that has written so lately is running, whether or not it holds a lock
_TAIL = 1 << 16  # bytes of a metrics file that are read
_SKIPPED = ("data", "tensorboard", "jobs", "__pycache__")
_HEADLINES = ("bbox/AP50", "bbox/AP", "segm/AP", "acc1")
_LOSSES = ("loss", "total_loss")


@dataclass(frozen=True)
class Run:
    """One run's state.

    Attributes:
        name: its folder below the one that was asked for.
        state: "done", "failed", "running" or "stopped".
        done, total: iterations; None where unknown.
        eta: seconds from now; None unless it is running and its rate is known.
        metric: the newest number, or why it failed.
        age: seconds since it last wrote.
    """

    name: str
    state: str
    done: int | None = None
    total: int | None = None
    eta: float | None = None
    metric: str = ""
    age: float | None = None


def runs(folder: Path, now: float | None = None) -> Iterator[Run]:
    """Every run below `folder`, in the order of their paths; what was set aside as stale is left out."""
    now = time.time() if now is None else now
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and ".stale" not in name)
        if {METRICS, RESULT, RECORD, FAILED} & set(files):
            yield _run(Path(path), os.path.relpath(path, folder), now)


def _run(folder: Path, name: str, now: float) -> Run:
    lines = _tail(folder / METRICS)
    done = int(lines[-1]["iteration"]) + 1 if lines else None
    written = [path.stat().st_mtime for n in (METRICS, "log.txt", RECORD) if (path := folder / n).is_file()]
    age = max(now - max(written), 0.0) if written else None
    result, record = _json(folder / RESULT), _json(folder / RECORD)
    failure = _json(folder / FAILED)
    if failure is not None:
        return Run(name, "failed", done, None, None, " ".join(str(failure.get("error", "")).split()), age)
    if (result is not None and (record is None or "outputs" in record)) or (record is not None and "outputs" in record):
        return Run(name, "done", done, done, None, _headline(result or {}), age)
    who = _holder(folder)
    running = who is not None or (age is not None and age < _FRESH)
    total, batch = _size(folder, lines)
    eta = _eta(lines, done, total, batch) if running else None
    eta = None if eta is None else max(eta - (age or 0.0), 0.0)
    return Run(name, "running" if running else "stopped", done, total, eta, _newest(lines), age)


def _holder(folder: Path) -> str | None:
    """Who works there, by its lock; None if nobody does."""
    path = lock_file(folder)
    try:
        with open(path) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return holder(path)
    except OSError:  # no lock file, or no locks on this file system
        return None
    return None


def _size(folder: Path, lines: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """Iterations of the whole run, and images per batch."""
    try:
        solver = yaml.safe_load((folder / "config.yaml").read_text())["SOLVER"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None, None
    if "MAX_ITER" in solver:
        return solver["MAX_ITER"], solver.get("IMS_PER_BATCH")
    if solver.get("ITERATIONS"):
        return solver["ITERATIONS"], solver.get("BATCH_SIZE")
    epochs = [line for line in lines if line.get("epoch")]
    if not epochs or not solver.get("EPOCHS"):
        return None, solver.get("BATCH_SIZE")
    per_epoch = (epochs[-1]["iteration"] + 1) / epochs[-1]["epoch"]
    return round(per_epoch * solver["EPOCHS"]), solver.get("BATCH_SIZE")


def _eta(lines: list[dict[str, Any]], done: int | None, total: int | None, batch: int | None) -> float | None:
    """Seconds from the last line on: as the run says, else by the mean rate of its last ten lines."""
    if lines and lines[-1].get("eta_seconds") is not None:
        return float(lines[-1]["eta_seconds"])
    rates = [line["images_per_second"] for line in lines[-10:] if line.get("images_per_second")]
    if not rates or done is None or total is None or not batch:
        return None
    return (total - done) * batch * len(rates) / sum(rates)


def _headline(result: Mapping[str, Any]) -> str:
    metrics = {k: v for k, v in (result.get("metrics") or {}).items() if isinstance(v, (int, float))}
    names = [name for name in _HEADLINES if name in metrics] or list(metrics)[:1]
    return ", ".join(f"{name.removeprefix('bbox/')} {metrics[name]:.1f}" for name in names)


def _newest(lines: list[dict[str, Any]]) -> str:
    found = next(((n, line[n]) for line in reversed(lines) for n in _LOSSES if line.get(n) is not None), None)
    return "" if found is None else f"{found[0]} {found[1]:.4g}"


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last lines of a metrics file; broken ones (the first and the last may be cut) are left out."""
    try:
        with open(path, "rb") as f:
            f.seek(max(os.fstat(f.fileno()).st_size - _TAIL, 0))
            texts = f.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            lines.append(line)
    return lines


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def screen(found: list[Run], width: int) -> str:
    """A table of at most `width` columns: long names lose their beginning, long messages their end."""
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
        lines.append("  ".join([*cells, row[6]])[:width].rstrip())
    counts = Counter(r.state for r in found)
    summary = ", ".join(f"{counts[s]} {s}" for s in ("done", "running", "stopped", "failed") if counts[s])
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
