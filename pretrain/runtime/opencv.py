"""Imports OpenCV, in this one place, and tells whether the installation works.

OpenCV's four wheels share the folder `cv2`, and pip lets them overwrite each other. What is left may import as an empty
package, lack functions, or ask for libraries of a display. This project asks for the headless wheel, which needs none.
`cv2` is OpenCV, or an object whose first use raises the reason; commands call `check` before they begin.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any, NoReturn

from pretrain.runtime.errors import ExpectedError

HEADLESS = "opencv-python-headless"
WHEELS = (HEADLESS, "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
NEEDED = ("imdecode", "imencode", "cvtColor", "GaussianBlur", "resize", "warpAffine", "findContours", "fillPoly")


class OpenCVError(ExpectedError, ImportError):
    """OpenCV is missing or damaged; the message says how to repair it."""


class _Broken:
    """Stands for OpenCV where it does not work."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # inspect, pickle and the like ask for these of anything
            raise AttributeError(name)
        raise OpenCVError(self._why)


def load() -> Any:
    """Returns the module `cv2`, or, if it does not work, a `_Broken` that says why."""
    try:
        found = importlib.import_module("cv2")
    except (ImportError, AttributeError) as error:  # AttributeError: its Python files are another version's
        return _Broken(advice(str(error), installed()))
    if lacking := [name for name in NEEDED if not hasattr(found, name)]:
        return _Broken(advice(f"cv2 has no {lacking[0]}", installed()))
    return found


def installed() -> list[str]:
    """Returns the wheels of OpenCV that pip knows of, each with its version."""
    versions = []
    for name in WHEELS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def advice(reason: str, wheels: Sequence[str]) -> str:
    """Returns one line that says what is wrong with OpenCV, and gives the commands that repair it.

    Args:
        reason: why the import failed.
        wheels: see `installed`.
    """
    names = [wheel.split()[0] for wheel in wheels]
    if len(names) > 1:
        cause = f"{' and '.join(wheels)} have overwritten each other"
    elif names and names != [HEADLESS]:
        cause = f"{wheels[0]} is installed, which needs a display's libraries"
    else:
        cause = f"{wheels[0]} is damaged" if wheels else "none of its wheels is installed"
    remove = f"pip uninstall -y {' '.join(names)} && " if names else ""
    return f"OpenCV does not work here ({' '.join(reason.split())}): {cause}; run: {remove}pip install {HEADLESS}"


cv2: Any = load()


def check() -> None:
    """Raises OpenCVError if OpenCV does not work."""
    cv2.imdecode  # noqa: B018
