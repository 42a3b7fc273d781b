"""Tells which command a YAML file is for, so that another command that is given it can say so.

A kind of file is known by keys that no other kind has; `tests/transfer/trials/test_config_kinds.py` holds them against
the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """Holds what a kind of file is called, the commands that take it, and dotted keys that it alone has."""

    name: str
    takers: str
    marks: tuple[str, ...]


EXPERIMENT = Kind(
    "an experiment",
    "tools/run_trials.py or tools/reproduce.py",
    ("title", "rows", "columns", "metrics", "trials", "pretrain", "transfer", "probe", "findings"),
)
DATA_SETS = Kind(
    "a description of data sets, which DATASETS.SPECS names", "tools/check_dataset.py --spec", ("root", "splits")
)
PRETRAINING = Kind(
    "a config of a pre-training",
    "tools/train_moco.py",
    (
        *(f"MODEL.{key}" for key in ("MECHANISM", "DIM", "K", "M", "T", "MLP", "SHUFFLE_BN", "BN_GROUPS")),
        *("DATA.CACHE", "AUG.RECIPE", "AUG.BACKEND", "KNN", "SOLVER.SCHEDULE"),
    ),
)
CLASSIFIER = Kind(
    "a config of a linear probe or of a classifier's fine-tuning",
    "tools/linear_eval.py or tools/finetune.py",
    ("MODEL.TRUNK", "AUG.TRAIN", "AUG.RESIZE"),
)
TRANSFER = Kind(
    "a config of a detector or of segmentation",
    "tools/train_net.py",
    (
        *(f"MODEL.{key}" for key in ("META_ARCHITECTURE", "BACKBONE", "RESNETS", "ROI_HEADS", "PIXEL_MEAN", "MASK_ON")),
        *("VERSION", "INPUT", "DATASETS", "DATALOADER", "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER"),
    ),
)
KINDS = (EXPERIMENT, DATA_SETS, PRETRAINING, CLASSIFIER, TRANSFER)


def kind_of(tree: Mapping[str, Any]) -> Kind | None:
    """Returns the kind whose keys a tree has most of; None if it has fewer than two, which may be a mistake."""
    count = {kind: sum(_has(tree, mark) for mark in kind.marks) for kind in KINDS}
    best = max(KINDS, key=count.__getitem__)
    return best if count[best] > 1 else None


def check_kind(path: str | os.PathLike[str], found: Mapping[str, Any], wanted: Kind | None) -> None:
    """Raises ConfigError with the command to take if a file is of another kind than is wanted.

    Args:
        found: the file's contents, with those of its bases.
        wanted: None for what is of no known kind, where nothing is said.
    """
    kind = kind_of(found)
    if kind is not None and wanted is not None and kind != wanted:
        raise ConfigError(f"'{path}' is {kind.name}, for {kind.takers}; this command takes {wanted.name}")


def _has(tree: Mapping[str, Any], key: str) -> bool:
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
