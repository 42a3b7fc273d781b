"""A made-up surface in the files that DensePose's come in: ten vertices on each of the 24 parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from transfer.data import densepose_files as files

PER_PART = 10


def vertices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, V and part of every vertex; on a part they are 0.1 apart in U."""
    part = np.repeat(np.arange(1, 25), PER_PART)
    u = np.tile(np.arange(PER_PART) / PER_PART + 0.05, 24)
    return u, 1 - u, part


def write_mats(folder: Path) -> None:
    """Writes the three files of matrices."""
    folder.mkdir(parents=True, exist_ok=True)
    ramp = np.tile(np.arange(256, dtype=np.float32) / 255, (256, 1))
    tables = {}
    for key, table in (("U_transforms", ramp), ("V_transforms", ramp.T)):
        tables[key] = np.empty((1, 24), object)
        for i in range(24):
            tables[key][0, i] = table
    savemat(folder / files.SYMMETRIES, tables, do_compression=True)
    u, v, part = vertices()
    savemat(folder / files.VERTICES, {"U_subdiv": u[:, None], "V_subdiv": v[:, None], "Part_ID_subdiv": part[:, None]})
    savemat(folder / files.TRANSFORM, {"index": np.arange(1, len(part) + 1)[:, None]})


def distances() -> np.ndarray:
    """Half a metre between any two vertices, without the 380 million numbers that a file holds."""
    return np.broadcast_to(np.float32(0.5), (files.PAIRS, 1))
