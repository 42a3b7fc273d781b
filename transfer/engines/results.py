"""Writes what a run leaves behind: its config and its result with notes. Both engines write them here."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint, dist, provenance
from pretrain.runtime.config import to_dict
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.result import RunResult, named_inputs
from transfer.config.load import digest
from transfer.data import catalog
from transfer.engines import resolve

logger = logging.getLogger(__name__)


def add_notes(output_dir: str, lines: Sequence[str]) -> RunResult:
    """Puts lines before the notes of the finished run in `output_dir`, and returns its result in every process."""
    if lines and dist.is_main():
        result = RunResult.load(output_dir)
        result.notes = [*lines, *(note for note in result.notes if note not in lines)]
        result.save(output_dir)
    dist.barrier()
    return RunResult.load(output_dir)


def class_names(cfg: CfgNode) -> list[str]:
    """Returns the class names by contiguous id from the config's data sets; empty if no data set is here any more."""
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
    """Returns `data set <name>` -> digest of annotations and images' names and sizes, for each set that a run reads.

    A data set that is not here any more is left out, so that a finished training is not lost because of it.
    """
    names = dict.fromkeys((*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST))
    found = {}
    for name in names:
        try:
            (spec,) = catalog.resolve([name], cfg.DATASETS.SPECS)
            found[f"data set {name}"] = catalog.listing_digest(spec)
        except (ExpectedError, OSError) as error:
            logger.warning("the content of data set '%s' cannot be digested: %s", name, error)
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
        started: `time.monotonic()` at the run's start.
        iterations: number of optimizer steps done.
        run_digest: digest of what was trained, where that is not what the config says (see `resume.run_digest`).
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
        provenance=provenance.environment(resolve.device(cfg.MODEL.DEVICE).partition(":")[0]),
        extra={**extra, "classes": class_names(cfg)},
    )
    result.save(cfg.OUTPUT_DIR)
    return result
