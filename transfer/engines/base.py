"""The engine contract, and the few things that both engines do alike: notes, results, resume rules."""

from __future__ import annotations

import logging
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint, dist, provenance
from pretrain.runtime.config import ConfigError, to_dict
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.result import RunResult, named_inputs
from transfer.config.initial_weights import weights_facts
from transfer.config.lint import ERROR, NAMES
from transfer.config.load import digest
from transfer.data import catalog
from transfer.data.missing import Missing
from transfer.data.spec import Record
from transfer.engines.training_input import TrainingInput
from transfer.tasks.inspect import inspect

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
LAST_CHECKPOINT = "last_checkpoint"  # a text file that names the newest training checkpoint, as Detectron2 writes it
SYNC_NORMS = ("SyncBN", "naiveSyncBN", "nnSyncBN")


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


@dataclass
class RunNotes:
    """Decisions that a reader of the result must know; each is logged when it is made."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)
            logger.info(line)


def resolve_device(wanted: str, notes: RunNotes) -> str:
    """`MODEL.DEVICE` as it can be had here: "cuda" becomes "cpu" on a machine without a GPU, and the notes say so."""
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        notes.add(f"MODEL.DEVICE is '{wanted}' but there is no GPU here: running on the CPU")
        return "cpu"
    return wanted


def precision(cfg: CfgNode) -> torch.dtype | None:
    """What a training's products are computed in, where `SOLVER.AMP.ENABLED`; None for float32."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}[cfg.SOLVER.AMP.PRECISION] if cfg.SOLVER.AMP.ENABLED else None


def resolve_norms(cfg: CfgNode, processes: int, notes: RunNotes) -> CfgNode:
    """A copy with the kinds of batch norm that run: synchronising over one process is plain BN, and the notes say so.

    The state dict is the same either way, and the result's config keeps the names it was written with.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for branch in (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.SEM_SEG_HEAD):
        if branch.NORM in SYNC_NORMS and processes == 1:
            notes.add(f"norm '{branch.NORM}': with one process that is plain BN over its whole batch")
            branch.NORM = "BN"
    cfg.freeze()
    return cfg


def weights_file(cfg: CfgNode) -> str | None:
    """Local path of `MODEL.WEIGHTS`; None means random initialisation.

    Raises:
        ConfigError: the file does not exist, or its extension makes Detectron2 take the wrong reader.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        return None
    if "://" in path:
        from fvcore.common.file_io import PathManager  # downloads http(s) addresses into its cache

        if path.startswith("detectron2://"):
            path = "https://dl.fbaipublicfiles.com/detectron2/" + path[len("detectron2://") :]
        return str(PathManager.get_local_path(path))
    if not Path(path).is_file():
        raise ConfigError(
            f"MODEL.WEIGHTS '{path}' does not exist; convert a checkpoint with "
            "tools/convert-pretrain-to-detectron2.py, or leave it empty for random initialisation"
        )
    if path.endswith(".pkl") and checkpoint.is_torch_file(path):
        raise ConfigError(
            f"MODEL.WEIGHTS '{path}' was written by torch.save, and Detectron2 unpickles what ends in .pkl: rename it "
            "to .pth"
        )
    return path


def lint_before_training(cfg: CfgNode, names: Mapping[str, Collection[str]] = NAMES) -> list[str]:
    """Holds a config against the papers' protocol, its weights and its data; both engines begin a training with it.

    Returns:
        The warnings, logged here once, for the notes of the result.

    Raises:
        ConfigError: all errors at once, each with its remedy.
        CheckpointError: the weights cannot be read.
    """
    path = weights_file(cfg)
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


def local_world_size() -> int:
    """Processes on this machine (torchrun's LOCAL_WORLD_SIZE; all of them without torchrun)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.world_size()))


def check_shared(output_dir: Path) -> None:
    """Makes `output_dir`; several machines must see the same one: the main process writes results, all read them.

    Raises:
        EngineError: they do not.
    """
    if local_world_size() >= dist.world_size():
        return
    probe = output_dir / dist.broadcast_object(f".shared-{uuid.uuid4().hex}")
    if dist.is_main():
        output_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
    dist.barrier()
    blind = [rank for rank, seen in enumerate(dist.gather_objects(probe.exists())) if not seen]
    if dist.is_main():
        probe.unlink()
    if blind:
        raise EngineError(
            f"OUTPUT_DIR '{output_dir}' is not the same folder on all machines (processes {blind} do not see it); put "
            "it on a file system that they share"
        )


def add_notes(output_dir: str, lines: Sequence[str]) -> RunResult:
    """Puts lines before the notes of the finished run in `output_dir`, and gives its result to every process."""
    if lines and dist.is_main():
        result = RunResult.load(output_dir)
        result.notes = [*lines, *(note for note in result.notes if note not in lines)]
        result.save(output_dir)
    dist.barrier()
    return RunResult.load(output_dir)


def detector_file(cfg: CfgNode, use: str) -> str:
    """Local path of `MODEL.WEIGHTS`, which `use` cannot do without.

    Raises:
        ConfigError: it is empty, or see `weights_file`.
    """
    if (path := weights_file(cfg)) is None:
        raise ConfigError(f"{use} needs the trained network: give MODEL.WEIGHTS, such as the model_final.pth of a run")
    return path


def class_names(cfg: CfgNode) -> list[str]:
    """Names of the config's classes by contiguous id, from its data sets; empty if none of these is here any more."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            return list(catalog.class_names(*catalog.resolve([name], cfg.DATASETS.SPECS)))
        except (ExpectedError, OSError) as error:
            logger.warning("the classes of data set '%s' are not known: %s", name, error)
    return []


def save_config(cfg: CfgNode, output_dir: Path) -> None:
    """Writes the full resolved config to `output_dir/config.yaml`."""
    with checkpoint.atomic_write(output_dir / "config.yaml", "w") as f:
        yaml.safe_dump(to_dict(cfg), f, default_flow_style=None, width=120)


def data_digests(cfg: CfgNode, training: bool) -> dict[str, str]:
    """`data set <name>` -> digest of its annotations, and of its images' names and sizes, for all that a run reads.

    One that is not here any more is left out: a finished training is not lost for that.
    """
    names = dict.fromkeys((*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST))
    found = {}
    for name in names:
        try:
            (spec,) = catalog.resolve([name], cfg.DATASETS.SPECS)
            found[f"data set {name}"] = catalog.listing_digest(spec)
        except (ExpectedError, OSError) as error:
            logger.warning("the result does not say which data set '%s' it is of: %s", name, error)
    return found


def finish(
    engine: str,
    kind: str,
    cfg: CfgNode,
    metrics: Mapping[str, float],
    notes: Sequence[str],
    started: float,
    artifacts: Mapping[str, str],
    extra: Mapping[str, Any],
    initial_weights: str | None,
    seed: int,
    iterations: int = 0,
    run_digest: str | None = None,
) -> RunResult:
    """Assembles the result of a run and saves it as `OUTPUT_DIR/result.json`.

    Args:
        started: `time.monotonic()` then.
        iterations: optimizer steps that were done.
        run_digest: of what was trained, where that is not what the config says (see `resume.run_digest`).
    """
    weights = provenance.file_sha256(initial_weights) if initial_weights else None
    result = RunResult(
        kind=kind,
        engine=engine,
        seed=seed,
        config_digest=run_digest or digest(cfg),
        weights_sha256=weights,
        inputs=named_inputs(config=run_digest or digest(cfg), weights=weights) | data_digests(cfg, kind == "train"),
        metrics=dict(metrics),
        iterations=iterations,
        seconds=time.monotonic() - started,
        notes=list(notes),
        artifacts=dict(artifacts),
        provenance=provenance.environment(resolve_device(cfg.MODEL.DEVICE, RunNotes()).partition(":")[0]),
        extra={**extra, "classes": class_names(cfg)},
    )
    result.save(cfg.OUTPUT_DIR)
    return result
