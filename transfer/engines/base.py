"""The engine contract, and how every training begins: by holding its config against protocol, weights and data."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.result import RunResult
from transfer.config.initial_weights import weights_facts
from transfer.config.lint import ERROR, NAMES
from transfer.data.missing import Missing
from transfer.data.spec import Record
from transfer.engines import resolve
from transfer.engines.training_input import TrainingInput
from transfer.tasks.inspect import inspect

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
LAST_CHECKPOINT = "last_checkpoint"  # a text file that names the newest training checkpoint, as Detectron2 writes it


class EngineError(ExpectedError, RuntimeError):
    """An engine that cannot run what it was asked to; the message says what to do."""


class Engine(ABC):
    """Trains and evaluates the detectors of `configs/transfer/`.

    Checkpoints on disk carry Detectron2's names whichever engine wrote them, so either engine, and stock Detectron2,
    reads them.
    """

    name: str

    @abstractmethod
    def defaults(self) -> CfgNode:
        """A fresh, mutable defaults tree with this project's own keys added."""

    @abstractmethod
    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        """Trains from `MODEL.WEIGHTS` to `SOLVER.MAX_ITER`, evaluates on `DATASETS.TEST`, saves `result.json`.

        Args:
            cfg: frozen config; `OUTPUT_DIR` is the run's folder.
            resume: "no" starts anew, "must" continues from the last checkpoint in `OUTPUT_DIR` and fails without one,
                "auto" continues if there is one.
            num_gpus: processes on this machine (one per GPU; on CPU the torchvision engine takes gloo processes). In a
                process group (torchrun, `machines`) this process is one of it, and the number is not read.

        Raises:
            ConfigError, EngineError: before the first iteration, from the linter too (`lint_before_training`).
        """

    @abstractmethod
    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        """Evaluates `MODEL.WEIGHTS` (a detector) on `DATASETS.TEST`; saves `result.json`."""

    @abstractmethod
    def predict(self, cfg: CfgNode, images: Sequence[Record]) -> Iterator[Any]:
        """Yields what `MODEL.WEIGHTS` (a whole network) finds on images, in order: `ImageDetections`, or `miou.Map`s.

        Args:
            images: records without annotations, whose files can be read.

        Raises:
            ConfigError: no weights, or a trunk's.
        """

    def export(
        self, cfg: CfgNode, output: Path, kind: str, names: Sequence[str], images: Sequence[np.ndarray]
    ) -> list[str]:
        """Writes `MODEL.WEIGHTS` (a whole network) as a file for serving, once that computes what the network computes.

        Args:
            kind: "onnx" or "torch".
            names: of the classes, for the file's metadata.
            images: (H, W, 3) uint8 in the config's channel order, on which the two are compared; none: made-up ones.

        Returns:
            A line per image: how far apart they are.

        Raises:
            ConfigError: no weights or a trunk's, a library that is missing, or a network that has no such file.
            EngineError: the file would compute something else, and is not written.
        """
        raise EngineError(f"the {self.name} engine exports nothing; its networks load in --engine torchvision")

    @abstractmethod
    def training_inputs(self, cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
        """Yields the first `count` inputs of a training with this config and SEED, as its network sees them.

        Raises:
            ConfigError, DatasetError: what keeps the training from starting.
        """

    def missing(self, cfg: CfgNode) -> list[Missing]:
        """What a config needs on this engine beside its weights and data sets, and this machine lacks."""
        return []

    def part_names(self) -> Mapping[str, Collection[str]]:
        """Key -> what this engine's registries hold, for the linter."""
        return NAMES


def lint_before_training(cfg: CfgNode, names: Mapping[str, Collection[str]] = NAMES) -> list[str]:
    """Holds a config against the papers' protocol, its weights and its data; both engines begin a training with it.

    Returns:
        The warnings, logged here once, for the notes of the result.

    Raises:
        ConfigError: all errors at once, each with its remedy.
        CheckpointError: the weights cannot be read.
    """
    path = resolve.weights_file(cfg)
    facts = weights_facts(cfg.MODEL.WEIGHTS)
    if path is not None and not facts and "://" in cfg.MODEL.WEIGHTS:  # unknown by its address, but it is here now
        facts = weights_facts(path)
    findings = inspect(cfg, facts, names)
    errors = [str(f) for f in findings if f.level == ERROR]
    if errors:
        raise ConfigError("the config linter refuses to train this:\n  " + "\n  ".join(errors))
    lines = [f"linter: {f}" for f in findings]
    for line in lines if dist.is_main() else ():
        logger.warning(line)
    return lines
