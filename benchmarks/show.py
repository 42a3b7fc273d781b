"""What a benchmark prints beside its figures: the machine, and the spread over repeats."""

from __future__ import annotations

import platform
import statistics
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> str:
    """The processor, Python and the versions of `packages`, in a line."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return ", ".join([cpu, f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)])


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def spread(values: list[float], digits: int) -> str:
    """median [smallest-largest]"""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"
