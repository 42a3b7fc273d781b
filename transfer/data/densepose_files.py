"""Reads the files beside DensePose's data: how the body's surface mirrors, its vertices, and the distances on it.

They lie in one folder and are read here before a run starts; otherwise DensePose's mapper and evaluator would fail on
them during or after the training. Nobody has published their hashes, so they are not fetched; missing ones are named.
"""

from __future__ import annotations

import codecs
import pickle
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from transfer.data.catalog import data_root
from transfer.data.densepose import PARTS, SIDE
from transfer.data.missing import Missing
from transfer.data.spec import DatasetError, one_line

SYMMETRIES, VERTICES, TRANSFORM, DISTANCES = (
    "UV_symmetry_transforms.mat", "SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat", "Pdist_matrix.pkl",
)  # fmt: skip
ADDRESS = "https://dl.fbaipublicfiles.com/densepose/data"
MESH = 27554  # vertices, between any two of which the distance is known
PAIRS = MESH * (MESH - 1) // 2


def folder() -> Path:
    """Returns the folder that holds the files: `densepose` in the folder of the data sets."""
    return data_root() / "densepose"


def missing_files() -> list[Missing]:
    """Returns the missing files as one entry that says where to get them; empty if all are there."""
    names = [n for n in (SYMMETRIES, VERTICES, TRANSFORM, DISTANCES) if not (folder() / n).is_file()]
    if not names:
        return []
    these = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    what = f"DensePose's {'files' if len(names) > 1 else 'file'} {', '.join(names)} in '{folder()}'"
    return [Missing(what, f"wget -P {shlex.quote(str(folder()))} {ADDRESS}/{these}")]


@dataclass(frozen=True)
class Surface:
    """Holds the surface of a body as V vertices on 24 parts.

    Attributes:
        uv: (2, V) float, the place of each vertex on its part.
        part: (V,) int, the part of each vertex, counted from 1.
        mesh: (V,) int, the number of each vertex in the mesh of the distances, counted from 1.
        distances: (PAIRS, 1) float, distance on the surface in metres between any two vertices of the mesh.
    """

    uv: np.ndarray
    part: np.ndarray
    mesh: np.ndarray
    distances: np.ndarray


def check_symmetries() -> None:
    """Raises DatasetError if the file of symmetries does not hold a table of U and of V per part."""
    path = folder() / SYMMETRIES
    content = _read_mat(path)
    for key in ("U_transforms", "V_transforms"):
        tables = content.get(key)
        if tables is None or tables.shape != (1, PARTS) or any(np.shape(t) != (SIDE, SIDE) for t in tables[0]):
            raise _wrong(path, f"no {key} of {PARTS} tables of {SIDE} x {SIDE}")


def read_surface() -> Surface:
    """Reads vertices and distances, which are 380 million numbers.

    Raises:
        DatasetError: a file cannot be read or holds something else.
    """
    content, transform = _read_mat(folder() / VERTICES), _read_mat(folder() / TRANSFORM)
    u, v, part = (_numbers(content, key, folder() / VERTICES) for key in ("U_subdiv", "V_subdiv", "Part_ID_subdiv"))
    if not len(u) == len(v) == len(part) or set(part.tolist()) != set(range(1, PARTS + 1)):
        counts = f"{len(u)} U, {len(v)} V and {len(part)} numbers of parts"
        raise _wrong(folder() / VERTICES, f"{counts}, instead of one of each per vertex, of {PARTS} parts")
    mesh = _numbers(transform, "index", folder() / TRANSFORM)
    if len(mesh) < len(part) or mesh.min() < 1 or mesh.max() > MESH:
        span = f"{len(mesh)} indices from {mesh.min():g} to {mesh.max():g}"
        raise _wrong(folder() / TRANSFORM, f"{span}, instead of one from 1 to {MESH} for each of {len(part)} vertices")
    return Surface(np.stack([u, v]), part.astype(int), mesh.astype(int), _read_distances(folder() / DISTANCES))


def _read_mat(path: Path) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = loadmat(path)
    except Exception as error:  # scipy raises OSError, ValueError, TypeError, NotImplementedError, ... on damaged files
        raise _wrong(path, f"what MATLAB's reader does not read ({one_line(error)})") from error
    return content


def _numbers(content: Mapping[str, Any], key: str, path: Path) -> np.ndarray:
    """Returns one of a file's arrays as a vector."""
    values = np.asarray(content.get(key, ())).ravel()
    if not len(values) or not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise _wrong(path, f"no {key} of finite numbers")
    return values


_RECONSTRUCT = np.zeros(0).__reduce__()[0]  # how a pickle makes an array
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _Arrays(pickle.Unpickler):
    """Unpickles arrays and containers of them, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no table of distances needs")
        return _ALLOWED[module, name]


def _read_distances(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as f:
            content = _Arrays(f, encoding="latin1").load()
    except Exception as error:  # unpickling raises whatever the bytes make it raise
        raise _wrong(path, f"no pickle of arrays ({one_line(error)})") from error
    found = content.get("Pdist_matrix") if isinstance(content, dict) else None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        raise _wrong(path, "no Pdist_matrix, a column of numbers")
    if len(found) < PAIRS:
        raise _wrong(path, f"{len(found)} distances instead of the {PAIRS} between {MESH} vertices")
    return found


def _wrong(path: Path, what: str) -> DatasetError:
    return DatasetError(f"DensePose's file '{path}' holds {what}; fetch it again: {ADDRESS}/{path.name}")
