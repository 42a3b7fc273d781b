"""Records where a result comes from: versions of packages, hardware, commit of the code, digests of its inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.files import open_regular

PACKAGES = ("torch", "torchvision", "detectron2", "fvcore", "pycocotools", "numpy", "moco-transfer")


def environment(computed_on: str) -> dict[str, Any]:
    """Describes the software and the machine of this process as plain JSON values.

    Args:
        computed_on: the type of device that each process computes on, "cpu" or "cuda".

    Returns:
        Versions of Python and of `PACKAGES`, platform, device, number of processes, GPUs and threads, commit, and peak
        memory.
    """
    import torch

    device = torch.cuda.get_device_name() if computed_on == "cuda" else platform.processor() or platform.machine()
    return {
        "python": sys.version.split()[0],
        "packages": {name: version for name in PACKAGES if (version := package_version(name)) is not None},
        "platform": platform.platform(),
        "computed_on": computed_on,
        "processes": dist.world_size(),
        "device": device,
        "gpus": torch.cuda.device_count(),
        "threads": torch.get_num_threads(),
        "commit": code_commit(),
        "peak_memory_gb": peak_memory(computed_on),
    }


def peak_memory(computed_on: str) -> dict[str, float]:
    """Returns the largest amount of memory that this process has held so far, in GB (10^9 bytes).

    Returns:
        "process": its resident memory; with "cuda" also "gpu": the memory of its tensors on the GPU.
    """
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    held = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if computed_on == "cuda":
        held["gpu"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(value, 3) for name, value in held.items()}


def package_version(name: str) -> str | None:
    """Returns the version of an installed distribution, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_commit() -> str | None:
    """Returns the commit of this checkout, with "-dirty" appended if files have changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # installed inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


_hashed: dict[tuple[str, int, int, int], str] = {}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal.

    A process hashes a file once, and again only if the file's size, modification time or inode has changed.

    Raises:
        OSError: the path is not a regular file, or it cannot be read.
    """
    with open_regular(path) as f:
        state = os.fstat(f.fileno())
    key = os.path.realpath(path), state.st_size, state.st_mtime_ns, state.st_ino
    if key not in _hashed:
        _hashed[key] = checkpoint.sha256(path)
    return _hashed[key]


def digest(value: Any) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of a JSON-like value.

    The order of keys does not matter, and a tuple has the digest of a list with the same elements.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_digest(cfg: Mapping[str, Any], exclude: Iterable[str] = ()) -> str:
    """Returns the `digest` of a config tree.

    Args:
        exclude: dotted keys to leave out, because they may change without changing the result.
    """
    skip = set(exclude)

    def walk(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name not in skip:
                out[key] = walk(value, name + ".") if isinstance(value, Mapping) else value
        return out

    return digest(walk(cfg, ""))
