"""States the engine contract, and checks a config against protocol, weights and data before every training."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.result import RunResult
from transfer.config.initial_weights import weights_facts
from transfer.config.lint import ERROR, NAMES, Finding
from transfer.data.missing import Missing
from transfer.data.spec import Record
from transfer.engines import resolve
from transfer.engines.training_input import TrainingInput
from transfer.tasks.inspect import inspect

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
LAST_CHECKPOINT = "last_checkpoint"  # a text file that names the newest training checkpoint, as Detectron2 writes it


class EngineError(ExpectedError, RuntimeError):
    """Says that an engine cannot run what it was asked to; the message says what to do."""


class Engine(ABC):
    """Trains and evaluates the detectors of `configs/transfer/`.

    Checkpoints on disk carry Detectron2's names whichever engine wrote them, so either engine, and stock Detectron2,
    reads them.
    """

    name: str

    @abstractmethod
    def defaults(self) -> CfgNode:
        """Returns a fresh, mutable defaults tree with this project's own keys added."""

    @abstractmethod
    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        """Trains from `MODEL.WEIGHTS` to `SOLVER.MAX_ITER`, evaluates on `DATASETS.TEST`, saves `result.json`.

        Args:
            cfg: frozen config; `OUTPUT_DIR` is the run's folder.
            resume: "no" starts anew, "must" continues from the last checkpoint in `OUTPUT_DIR` and fails without one,
                "auto" continues if there is one.
            num_gpus: number of processes on this machine, one per GPU (on a CPU the torchvision engine starts gloo
                processes). Where this process is already in a group (torchrun, `machines`), the number is not read.

        Raises:
            ConfigError, EngineError: the run cannot start; raised before the first iteration, also by the linter
                (`lint_before_training`).
        """

    @abstractmethod
    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        """Evaluates `MODEL.WEIGHTS` (a detector) on `DATASETS.TEST`; saves `result.json`."""

    @abstractmethod
    def predict(self, cfg: CfgNode, images: Sequence[Record]) -> Iterator[Any]:
        """Yields, image by image, what `MODEL.WEIGHTS` (a whole network) finds: `ImageDetections` or `miou.Map`s.

        Args:
            images: records without annotations, whose files can be read.

        Raises:
            ConfigError: there are no weights, or only a trunk's.
        """

    def export(
        self, cfg: CfgNode, output: Path, kind: str, names: Sequence[str], images: Sequence[np.ndarray]
    ) -> list[str]:
        """Writes `MODEL.WEIGHTS` (a whole network) as a file for serving, if the file computes what the network does.

        Args:
            kind: "onnx" or "torch".
            names: the classes' names, for the file's metadata.
            images: (H, W, 3) uint8 in the config's channel order, on which file and network are compared; if empty,
                made-up images are used.

        Returns:
            One line per image, which says how far apart the two outputs are.

        Raises:
            ConfigError: there are no weights or only a trunk's, a library is missing, or this network cannot be
                written as such a file.
            EngineError: the file would compute something else, so it is not written.
        """
        raise EngineError(f"the {self.name} engine exports nothing; its networks load in --engine torchvision")

    @abstractmethod
    def training_inputs(self, cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
        """Yields the first `count` inputs of a training with this config and SEED, as its network sees them.

        Raises:
            ConfigError, DatasetError: the training cannot start.
        """

    def missing(self, cfg: CfgNode) -> list[Missing]:
        """Returns what a config needs on this engine, beside its weights and data sets, that this machine lacks."""
        return []

    def check_config(self, cfg: CfgNode, processes: int = 1, facts: Mapping[str, Any] | None = None) -> None:
        """Checks what the start of a training would refuse in its config.

        Experiments ask before their first stage, which may be days before the training.

        Args:
            processes: number of processes of the training.
            facts: what is known of the weights that it will start from; see `weights_facts`.

        Raises:
            ConfigError: the engine or the linter refuses the config.
        """
        check_batch(cfg, processes)
        refuse_errors(inspect(cfg, facts, self.part_names()))

    def unfit_device(self, cfg: CfgNode, processes: int = 1) -> str | None:
        """Returns why this machine's devices cannot train a config, with the remedy; None if they can."""
        return None

    def part_names(self) -> Mapping[str, Collection[str]]:
        """Returns for each config key the names that this engine's registries hold, for the linter."""
        return NAMES


def check_batch(cfg: CfgNode, processes: int) -> None:
    """Raises ConfigError unless the batch divides over this many processes."""
    if (batch := cfg.SOLVER.IMS_PER_BATCH) % processes:
        nearest = max(1, batch // processes) * processes
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} does not divide over {processes} processes; start fewer, or take "
            f"--auto-scale {nearest}, by which rate and schedule follow"
        )


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raises ConfigError with all errors at once, each with its remedy, if the linter has found any."""
    if errors := [str(f) for f in findings if f.level == ERROR]:
        raise ConfigError("the config linter refuses to train this:\n  " + "\n  ".join(errors))


def lint_before_training(cfg: CfgNode, names: Mapping[str, Collection[str]] = NAMES) -> list[str]:
    """Checks a config against the papers' protocol, its weights and its data; both engines start a training with it.

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
    refuse_errors(findings)
    lines = [f"linter: {f}" for f in findings]
    for line in lines if dist.is_main() else ():
        logger.warning(line)
    return lines
