"""Holds the Detectron2 engine: Detectron2's own model, trainer, loaders and evaluators, with our head and hooks."""

from __future__ import annotations

import importlib
import importlib.util


def problem() -> str | None:
    """Returns why Detectron2 cannot be used here, or None if it can."""
    if importlib.util.find_spec("detectron2") is None:
        return "Detectron2 is not installed"
    try:
        importlib.import_module("detectron2.engine")
    except ImportError as error:
        return f"Detectron2 is installed but does not import ({error})"
    return None


def densepose_problem() -> str | None:
    """Returns why Detectron2's DensePose project (a separate package) cannot be used here, or None if it can."""
    if importlib.util.find_spec("densepose") is None:
        return "Detectron2's DensePose project, which is not installed"
    try:
        importlib.import_module("densepose")
    except ImportError as error:
        return f"Detectron2's DensePose project, which is installed but does not import ({error})"
    return None
