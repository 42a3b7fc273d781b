"""Selects the engine that runs: a command-line choice, never a config key."""

from __future__ import annotations

import logging

from transfer.convert.convert import Verify
from transfer.engines.base import Engine, EngineError
from transfer.tasks.installing import how_to_install

logger = logging.getLogger(__name__)

CHOICES = ("auto", "detectron2", "torchvision")


def select(choice: str = "auto") -> Engine:
    """Returns the engine to use. `auto` takes Detectron2 where it imports, else torchvision, and logs which and why.

    Raises:
        EngineError: an explicit choice is not available (there is no fallback), or the name is unknown.
    """
    if choice not in CHOICES:
        raise EngineError(f"unknown engine '{choice}'; choose one of {', '.join(CHOICES)}")
    if choice == "torchvision":
        return _torchvision()
    problem = detectron2_problem()
    if problem is None:
        if choice == "auto":
            logger.info("engine: detectron2 (it imports, and is the engine of the papers)")
        from transfer.engines.d2.engine import Detectron2Engine

        return Detectron2Engine()
    if choice == "detectron2":
        remedy = f"install it with {how_to_install('detectron2')}, or use --engine torchvision"
        raise EngineError(f"--engine detectron2: {problem}; {remedy}")
    logger.info("engine: torchvision (%s)", problem)
    return _torchvision()


def detectron2_problem() -> str | None:
    """Returns why Detectron2 cannot be used here, or None if it can."""
    try:
        from transfer.engines import d2
    except ImportError:
        return "this installation has no transfer.engines.d2"
    return d2.problem()


def detectron2_verify() -> Verify | None:
    """Returns Detectron2's own check of a converted file, or None where Detectron2 does not import."""
    if detectron2_problem() is not None:
        return None
    from transfer.engines.d2.verify import verify

    return verify


def _torchvision() -> Engine:
    from transfer.engines.tv.engine import TorchvisionEngine

    return TorchvisionEngine()
