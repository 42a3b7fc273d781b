"""Reads and checks the configs of this half's commands as they do themselves, for tools that plan runs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fvcore.common.config import CfgNode

from pretrain import config
from pretrain.probes import config as probes
from pretrain.runtime.config import load

Reader = Callable[[Path, Sequence[str], int], CfgNode]


def read(file: Path, opts: Sequence[str], processes: int) -> CfgNode:
    """Reads a pre-training's config (tools/train_moco.py).

    Args:
        opts: `KEY VALUE ...` that change it.
        processes: number of training processes; the batch is divided among them.

    Raises:
        ConfigError: the pre-training would refuse it before it looks for its images and its device.
    """
    cfg = load(config.get_cfg(), file, opts)
    config.check(cfg, processes)
    return cfg


def _of_trunk(trunk: str) -> Reader:
    """Returns a function that does for a probe what `read` does (tools/linear_eval.py, tools/finetune.py)."""

    def read_probe(file: Path, opts: Sequence[str], processes: int) -> CfgNode:
        cfg = probes.load_lincls(file, opts, trunk)
        probes.check(cfg, processes)
        return cfg

    return read_probe


READERS: Mapping[str, Reader] = MappingProxyType(
    {"pretrain": read, "linear": _of_trunk("frozen"), "finetune": _of_trunk("free")}
)
"""Kind of run (a pre-training, or a probe by its protocol) -> the function that reads its config."""
