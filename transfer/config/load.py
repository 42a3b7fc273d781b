"""Loads a YAML file and command-line options into a defaults tree: they are merged once, then the tree is frozen."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from pretrain.runtime.config import load, to_dict, value_at
from pretrain.runtime.provenance import config_digest
from transfer.config.defaults import get_cfg
from transfer.config.limits import KINDS, check

# What may change from trial to trial, or from machine to machine, without making it another experiment. Weights and
# data count by their contents: their hashes stand beside this digest in every result.
NOT_IN_DIGEST = (
    "SEED",
    "OUTPUT_DIR",
    "VIS_PERIOD",
    "CUDNN_BENCHMARK",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "DATASETS.SPECS",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
)
# Keys that came after results had been recorded, each at the value that leaves a run what it was without it: results
# and runs from before go on.
ADDED = {"DATALOADER.RANDOM_SUBSET_RATIO": 1.0, "SOLVER.AMP.PRECISION": "fp16"}


def load_config(path: str | os.PathLike[str], opts: Sequence[str] = (), defaults: CfgNode | None = None) -> CfgNode:
    """Merges `path` (and its `_BASE_` files), then `KEY VALUE ...` options, into `defaults`; returns it frozen.

    Args:
        path: a YAML file of `configs/transfer/` or one of your own.
        opts: alternating keys and values, as on a command line.
        defaults: an engine's defaults tree; this project's own by default.

    Raises:
        ConfigError: see `pretrain.runtime.config`; also if a value is outside of its limits (`transfer.config.limits`).
    """
    cfg = get_cfg() if defaults is None else defaults
    load(cfg, path, opts, KINDS)
    check(cfg)
    return cfg


def digest(cfg: CfgNode) -> str:
    """Returns a digest of what defines the experiment in `cfg` (equal over its trials and on both engines)."""
    without_effect = (key for key, value in ADDED.items() if value_at(cfg, key) == value)
    return config_digest(to_dict(cfg), exclude=(*NOT_IN_DIGEST, *without_effect))
