"""What is said of an OpenCV that does not work, before anything long begins, and once."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime import opencv
from tests.conftest import ROOT

TWO = ["opencv-python-headless 5.0.0", "opencv-python 4.12.0"]
MODULES = {
    "an empty folder": {},
    "no functions": {"__init__.py": "__version__ = '5.0.0'\n"},
    "a display's library": {"__init__.py": "raise ImportError('libGL.so.1: cannot open shared object file')\n"},
    "files of two versions": {
        "__init__.py": "raise AttributeError(\"module 'cv2.dnn' has no attribute 'DictValue'\")\n"
    },
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_damaged_one_is_one_line(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "cv2"
    folder.mkdir()
    for name, text in MODULES[kind].items():
        (folder / name).write_text(text)
    if not MODULES[kind]:
        (folder / "data").mkdir()  # what an uninstallation leaves: a package without a file
    code = f"""
import importlib, sys
sys.path.insert(0, {str(tmp_path)!r})
if {not MODULES[kind]}:  # behind a real cv2 an empty folder would never be found
    import importlib.machinery, types
    sys.modules["cv2"] = types.ModuleType("cv2")
from pretrain.runtime import commands, opencv
commands.run(lambda: print("began"))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: OpenCV does not work here (") and done.stderr.count("\n") == 1
    assert "pip install opencv-python-headless" in done.stderr


def test_advice() -> None:
    said = opencv.advice("cv2 has no\nimdecode", TWO)
    assert "opencv-python-headless 5.0.0 and opencv-python 4.12.0 have overwritten each other" in said
    assert "run: pip uninstall -y opencv-python-headless opencv-python && pip install opencv-python-headless" in said
    assert "\n" not in said
    assert "needs a display's libraries" in opencv.advice("libGL.so.1", TWO[1:])
    assert "is damaged; run: pip uninstall -y opencv-python-headless &&" in opencv.advice("x", TWO[:1])
    assert opencv.advice("No module named 'cv2'", []).endswith(
        "none of its wheels is installed; run: pip install opencv-python-headless"
    )


def test_first_use_says_it_too() -> None:
    broken = opencv._Broken("why")
    with pytest.raises(opencv.OpenCVError, match="why"):
        broken.imdecode(b"", 1)
    pickle.dumps(broken)
    assert not hasattr(broken, "__wrapped__")


def test_a_working_one_is_the_module_itself() -> None:
    import cv2

    assert opencv.cv2 is cv2 and opencv.load() is cv2
    assert any(wheel.startswith("opencv") for wheel in opencv.installed())
    opencv.check()


def test_everybody_takes_it_from_there() -> None:
    folders = [ROOT / name for name in ("pretrain", "transfer", "tools", "datasets")]
    for path in {p for folder in folders for p in folder.glob("**/*.py")} - {ROOT / "pretrain/runtime/opencv.py"}:
        imports = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import)]
        names = {alias.name for node in imports for alias in node.names}
        assert "cv2" not in names, f"{path} imports cv2; take it from pretrain.runtime.opencv"
