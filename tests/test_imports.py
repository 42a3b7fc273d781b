"""The house's import direction, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = sorted(p for name in ("pretrain", "transfer") for p in (ROOT / name).rglob("*.py"))
ENGINES = "transfer.engines."
BELOW_TASKS = ("transfer.config", "transfer.convert", "transfer.data", "transfer.evaluation")
BELOW_ENGINES = (*BELOW_TASKS, "transfer.tasks")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def within(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


@pytest.mark.parametrize("path", PACKAGES, ids=module)
def test_direction(path: Path):
    here = module(path)
    for name in imports(path):
        if within(name, "detectron2", "densepose"):
            assert within(here, "transfer.engines.d2"), f"{here} imports {name}"
        if within(name, "torchvision.models.detection"):
            assert within(here, "transfer.engines.tv"), f"{here} imports {name}"
        if within(here, "pretrain"):
            assert not within(name, "transfer"), f"{here} imports {name}"
        if within(here, "pretrain.runtime") and within(name, "pretrain"):
            assert within(name, "pretrain.runtime") or name == "pretrain", f"{here} imports {name}"
        if within(here, "transfer") and within(name, "pretrain"):
            assert within(name, "pretrain.runtime") or name == "pretrain", f"{here} imports {name}"
        if within(here, *BELOW_ENGINES):
            assert not within(name, "transfer.engines", "transfer.trials", "transfer.report"), f"{here} imports {name}"
        if within(here, *BELOW_TASKS):
            assert not within(name, "transfer.tasks"), f"{here} imports {name}"
        if within(here, "transfer.engines"):
            assert not within(name, "transfer.trials", "transfer.report"), f"{here} imports {name}"
        if within(here, "transfer.engines.d2"):
            assert not within(name, "transfer.engines.tv"), f"{here} imports {name}"
        if within(here, "transfer.engines.tv"):
            assert not within(name, "transfer.engines.d2"), f"{here} imports {name}"
        if within(here, "transfer.trials"):
            assert not within(name, "transfer.report"), f"{here} imports {name}"
            assert not within(name, "transfer.engines.d2", "transfer.engines.tv"), f"{here} imports {name}"


def test_tools_are_thin():
    for path in sorted((ROOT / "tools").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 80, path.name
    assert not (ROOT / "tools" / "pretrain.py").exists()


def test_setup_imports_no_torch():
    assert not any(within(name, "torch", "torchvision", "detectron2") for name in imports(ROOT / "setup.py"))


@pytest.mark.parametrize("engine", ["d2", "tv"])
def test_either_engine_can_be_deleted(engine: str):
    """With one engine's folder gone, everything that does not name it still imports, and selection says why."""
    other = {"d2": "tv", "tv": "d2"}[engine]
    code = f"""
import importlib.abc, importlib.util, sys
class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "transfer.engines.{engine}" or name.startswith("transfer.engines.{engine}."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Gone())
import transfer.engines.select, transfer.engines.base, transfer.trials.run
import transfer.config.load, transfer.convert.convert
if "{engine}" == "d2":
    assert transfer.engines.select.select("auto").name == "torchvision"
assert not any(n.startswith("transfer.engines.{engine}") for n in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "transfer" / "engines" / other).is_dir()


def test_choosing_an_engine_warns_of_nothing():
    """What fvcore and Detectron2 say of a newer torch is not the user's business."""
    code = "from transfer.engines.select import select; print(select('auto').name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip() in ("detectron2", "torchvision")
