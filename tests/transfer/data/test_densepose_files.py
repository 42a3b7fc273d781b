"""The files beside DensePose's data: named where they are missing, refused where they hold something else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from tests.transfer.data.densepose_surface import vertices, write_mats
from transfer.data import densepose_files as files
from transfer.data.spec import DatasetError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All files, of a mesh with few pairs."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(files, "PAIRS", 100)
    write_mats(tmp_path / "densepose")
    write_distances(tmp_path / "densepose", {"Pdist_matrix": np.linspace(0, 1, 100, dtype=np.float32)[:, None]})
    return tmp_path / "densepose"


def write_distances(folder: Path, content: Any) -> None:
    (folder / files.DISTANCES).write_bytes(pickle.dumps(content, protocol=2))


def test_missing_files_are_named_at_once_with_their_addresses(folder: Path) -> None:
    assert files.missing_files() == []
    (folder / files.VERTICES).unlink()
    (one,) = files.missing_files()
    assert one.what == f"DensePose's file SMPL_subdiv.mat in '{folder}'"
    assert one.remedy.endswith(f"-P {folder} https://dl.fbaipublicfiles.com/densepose/data/SMPL_subdiv.mat")
    for path in folder.iterdir():
        path.unlink()
    (all_of_them,) = files.missing_files()
    names = "{UV_symmetry_transforms.mat,SMPL_subdiv.mat,SMPL_SUBDIV_TRANSFORM.mat,Pdist_matrix.pkl}"
    assert all_of_them.remedy.endswith(f"/{names}")


def test_the_surface_is_what_the_files_say(folder: Path) -> None:
    files.check_symmetries()
    surface = files.read_surface()
    u, v, part = vertices()
    assert np.array_equal(surface.uv, [u, v]) and np.array_equal(surface.part, part)
    assert np.array_equal(surface.mesh, np.arange(1, 241)) and surface.distances.shape == (100, 1)
    assert surface.distances[50, 0] == np.float32(50 / 99)


def test_arrays_of_python_2_are_read(folder: Path) -> None:
    """Which wrote the file: its bytes are text there, and its module numpy.core."""
    matrix = np.full((100, 1), 0.25)
    text = matrix.tobytes().decode("latin1")

    class Written:
        def __reduce__(self) -> Any:
            make, arguments, (version, shape, kind, order, _) = matrix.__reduce__()
            return make, arguments, (version, shape, kind, order, text)

    content = pickle.dumps({"Pdist_matrix": Written()}, protocol=2).replace(b"numpy._core", b"numpy.core")
    (folder / files.DISTANCES).write_bytes(content)
    assert np.array_equal(files.read_surface().distances, matrix)


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch attacked",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Attack(), "asks for (posix|nt).system, which no table of distances needs"),
        ({"Pdist_matrix": np.zeros((99, 1))}, "99 distances instead of the 100 between 27554 vertices"),
        ({"Pdist_matrix": np.zeros(100)}, "no Pdist_matrix, a column of numbers"),
        ({"Pdist_matrix": np.zeros((100, 1), int)}, "no Pdist_matrix, a column of numbers"),
        ([1, 2], "no Pdist_matrix, a column of numbers"),
    ],
)
def test_distances_that_are_none(folder: Path, content: Any, message: str) -> None:
    write_distances(folder, content)
    refused(files.DISTANCES, message)
    assert not Path("attacked").exists()


def test_a_cut_file(folder: Path) -> None:
    for name in (files.DISTANCES, files.VERTICES):
        path = folder / name
        path.write_bytes(path.read_bytes()[:50])
        refused(name, "no pickle of arrays|what MATLAB's reader does not read")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (files.VERTICES, {"U_subdiv": np.zeros((3, 1))}, "3 U, 240 V and 240 numbers of parts"),
        (files.VERTICES, {"Part_ID_subdiv": np.ones((240, 1))}, "240 numbers of parts.* of 24 parts"),
        (files.VERTICES, {"V_subdiv": np.full((240, 1), np.nan)}, "no V_subdiv of finite numbers"),
        (files.TRANSFORM, {"index": np.zeros((240, 1))}, "240 indices from 0 to 0, instead of one from 1 to 27554"),
        (files.TRANSFORM, {"other": np.zeros(1)}, "no index of finite numbers"),
        (files.SYMMETRIES, {"other": np.zeros(1)}, "no U_transforms of 24 tables of 256 x 256"),
    ],
)
def test_matrices_that_are_others(folder: Path, name: str, changes: dict[str, Any], message: str) -> None:
    u, v, part = (values[:, None] for values in vertices())
    sound = {"U_subdiv": u, "V_subdiv": v, "Part_ID_subdiv": part} if name == files.VERTICES else {}
    savemat(folder / name, {**sound, **changes})
    refused(name, message)


def refused(name: str, message: str) -> None:
    """One sentence that names the file and where to get it."""
    with pytest.raises(DatasetError, match=f"{name}' holds .*{message}.*; fetch it again: http") as raised:
        files.check_symmetries()
        files.read_surface()
    assert "\n" not in str(raised.value)
