"""Resolves a config's device, norms, precision and weights on this machine, and notes what was decided."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint
from pretrain.runtime.config import ConfigError
from transfer.convert.read import read_weights

logger = logging.getLogger(__name__)

HEADS = ("proposal_generator.", "sem_seg_head.")  # what a whole network's tensors have, and no trunk's
SYNC_NORMS = ("SyncBN", "naiveSyncBN", "nnSyncBN")


@dataclass
class RunNotes:
    """Collects decisions that a reader of the result must know; each is logged when it is made."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)
            logger.info(line)


def device(wanted: str, notes: RunNotes | None = None) -> str:
    """Returns `MODEL.DEVICE`, or "cpu" in place of "cuda" on a machine without a GPU, which the notes then say."""
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        if notes is not None:
            notes.add(f"MODEL.DEVICE is '{wanted}' but there is no GPU here: running on the CPU")
        return "cpu"
    return wanted


def precision(cfg: CfgNode) -> torch.dtype | None:
    """Returns the type in which a training computes products if `SOLVER.AMP.ENABLED`; None stands for float32."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}[cfg.SOLVER.AMP.PRECISION] if cfg.SOLVER.AMP.ENABLED else None


def norms(cfg: CfgNode, processes: int, notes: RunNotes) -> CfgNode:
    """Returns a copy with the kinds of batch norm that run: on one process a synchronised one becomes plain BN.

    The notes then say so. The state dict is the same either way, and the result's config keeps the names as written.
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
    """Returns the local path of `MODEL.WEIGHTS`; None means random initialisation.

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


def detector_file(cfg: CfgNode, use: str) -> str:
    """Returns the local path of `MODEL.WEIGHTS`, which `use` cannot do without.

    Raises:
        ConfigError: the key is empty, its file cannot be used (see `weights_file`), or it holds only a trunk.
        CheckpointError: the file cannot be read.
    """
    if (path := weights_file(cfg)) is None:
        raise ConfigError(f"{use} needs the trained network: give MODEL.WEIGHTS, such as the model_final.pth of a run")
    if not any(name.startswith(HEADS) for name in read_weights(path)):
        raise ConfigError(f"'{path}' holds a trunk, not a whole network; give the model_final.pth of a run")
    return path
