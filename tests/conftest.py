"""Fixtures for all tests: a small data set on disk, a small detector config, the reference where there is one."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need Detectron2 or a GPU skip with a reason where it is missing."""
    import torch

    no_detectron2 = importlib.util.find_spec("detectron2") is None
    for item in items:
        if "d2" in item.keywords and no_detectron2:
            item.add_marker(pytest.mark.skip(reason="Detectron2 is not installed (make detectron2)"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """Results on a CPU depend on the number of threads: a test that leaves another one changes those after it."""
    import torch

    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before, f"the test leaves torch with {after} threads instead of {before}"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests that fork: a process of several threads cannot be forked safely."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _log_files_end() -> Iterator[None]:
    """A run in this process leaves its log's handler behind, which would write on once the test's folder is gone."""
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).name.startswith("log.txt"):
            root.removeHandler(handler)
            handler.close()


@pytest.fixture(scope="session")
def moco_reference() -> Path:
    """Folder of a clone of facebookresearch/moco, from $MOCO_REFERENCE."""
    folder = os.environ.get("MOCO_REFERENCE", "")
    if not folder:
        pytest.skip("set MOCO_REFERENCE to a clone of facebookresearch/moco")
    assert (Path(folder) / "detection" / "train_net.py").is_file(), f"MOCO_REFERENCE={folder} is no such clone"
    return Path(folder)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set: a few iconic images, and scenes in VOC and COCO layout (voc.yaml, coco.yaml)."""
    from transfer.data import generated as generator

    root = tmp_path_factory.mktemp("generated")
    generator.write(root, seed=0, iconic_train=16, iconic_val=8, scenes_trainval=12, scenes_test=6)
    return root


@pytest.fixture
def small_opts(generated: Path, tmp_path: Path) -> list[str]:
    """Options that put the small C4 config onto the generated set, at a size that trains in seconds."""
    from tests.architectures import options

    return options("R18-C4", generated, tmp_path)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the torchvision engine fork its processes from a server that has imported torch once: seconds less each."""
    from tests.processes import start_processes
    from transfer.engines.tv import launch

    monkeypatch.setattr(launch.mp, "spawn", start_processes)


@pytest.fixture
def small_config() -> Path:
    return ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
