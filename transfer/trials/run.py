"""Runs the trials of one config: finished ones are skipped, a broken one resumes where it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.result import FILE_NAME, RunResult
from transfer.config.load import digest, load_config
from transfer.engines import base
from transfer.engines.base import Engine
from transfer.trials.aggregate import Aggregate, AggregateError, aggregate

logger = logging.getLogger(__name__)

AGGREGATE_FILE = "trials.json"


def trial_folder(output_dir: Path, seed: int) -> Path:
    return output_dir / f"seed_{seed}"


def run_trials(
    engine: Engine,
    config: str | os.PathLike[str],
    opts: Sequence[str],
    output_dir: str | os.PathLike[str],
    seeds: Sequence[int],
    num_gpus: int = 1,
    notes: Sequence[str] = (),
) -> Aggregate:
    """Trains and evaluates `config` once per seed, each in its own folder, and writes the row to `trials.json`.

    Args:
        opts: options for every trial; OUTPUT_DIR and SEED are set per trial.
        seeds: non-negative and different; one trial each.
        num_gpus: see `Engine.train`. In a process group every process calls this; the main one writes the row.
        notes: lines for the notes of every trial's result.

    Raises:
        ConfigError, DatasetError, CheckpointError, EngineError: from the engine; finished trials stay finished.
        AggregateError: a folder holds the trial of another config, engine or weights.
    """
    output_dir = Path(output_dir)
    if any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise AggregateError(f"seeds must be different and not negative, not {list(seeds)}")
    results = []
    for n, seed in enumerate(seeds, 1):
        folder = trial_folder(output_dir, seed)
        cfg = load_config(config, [*opts, "OUTPUT_DIR", str(folder), "SEED", str(seed)], engine.defaults())
        weights = base.weights_file(cfg)
        wanted = (engine.name, digest(cfg), checkpoint.sha256(weights) if weights else None)
        if (folder / FILE_NAME).is_file():
            result = RunResult.load(folder)
            found = (result.engine, result.config_digest, result.weights_sha256)
            if found != wanted:
                different = [
                    f"{name} {a} instead of {b}"
                    for name, a, b in zip(("engine", "config digest", "weights"), found, wanted, strict=True)
                    if a != b
                ]
                raise AggregateError(
                    f"'{folder}' holds the trial of something else ({'; '.join(different)}); give another output folder"
                )
            logger.info("trial %d of %d (seed %d): finished before, skipped", n, len(seeds), seed)
        else:
            logger.info("trial %d of %d (seed %d) in %s", n, len(seeds), seed, folder)
            engine.train(cfg, resume="auto", num_gpus=num_gpus)
            result = base.add_notes(cfg.OUTPUT_DIR, notes)
        results.append(result)
    row = aggregate(results)
    if dist.is_main():
        checkpoint.save_json(row.to_json(), output_dir / AGGREGATE_FILE)
    return row
