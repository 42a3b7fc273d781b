"""Runs the trials of one config: skips finished ones, resumes interrupted ones and keeps what failed ones left."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import multiprocessing as mp

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.lock import LockError
from pretrain.runtime.machine import fault
from pretrain.runtime.provenance import file_sha256
from pretrain.runtime.result import FILE_NAME, RunResult
from transfer.config.load import digest, load_config
from transfer.engines import base, resolve, results
from transfer.engines.base import Engine
from transfer.trials.aggregate import Aggregate, AggregateError, aggregate
from transfer.trials.failure import forget_failure, write_failure

logger = logging.getLogger(__name__)

AGGREGATE_FILE = "trials.json"
TRIAL_ERRORS = (FloatingPointError, RuntimeError, OSError, mp.ProcessRaisedException, mp.ProcessExitedException)
"""What one trial may die of while others live: divergence, memory, a full disk, an engine's or checkpoint's error."""
EXPLAINED = (FloatingPointError, base.EngineError, checkpoint.CheckpointError)  # errors that need no traceback


class TrialsFailed(ExpectedError, RuntimeError):
    """Says that some trials of a row failed; the message names them and their reasons."""


def trial_folder(output_dir: Path, seed: int) -> Path:
    return output_dir / f"seed_{seed}"


def data_digests(cfg: CfgNode) -> Mapping[str, str]:
    """Returns `data set <name>` -> digest of the data sets of a trial that are here."""
    return results.data_digests(cfg, training=True)


def run_trial(
    engine: Engine,
    config: str | os.PathLike[str],
    opts: Sequence[str],
    output_dir: str | os.PathLike[str],
    seed: int,
    num_gpus: int = 1,
    notes: Sequence[str] = (),
    data: Callable[[CfgNode], Mapping[str, str]] = data_digests,
) -> RunResult:
    """Runs one trial in its folder: skips it if it is finished, else trains and evaluates or continues it.

    A trial that fails leaves the reason as `failed.json` in its folder until it is run again.

    Args:
        data: returns name -> digest of the data sets that a finished trial must have read; those that are not here
            any more are not compared.

    Raises:
        ConfigError, DatasetError: the engine raised it before a trial began.
        LockError: another run works in the trial's folder.
        TRIAL_ERRORS: the trial failed.
        AggregateError: the folder holds the trial of another config, engine, weights or data.
    """
    folder = trial_folder(Path(output_dir), seed)
    cfg = load_config(config, [*opts, "OUTPUT_DIR", str(folder), "SEED", str(seed)], engine.defaults())
    weights = resolve.weights_file(cfg)
    wanted = (engine.name, digest(cfg), file_sha256(weights) if weights else None)
    if (folder / FILE_NAME).is_file():
        result = RunResult.load(folder)
        found = (result.engine, result.config_digest, result.weights_sha256)
        pairs = [*zip(("engine", "config digest", "weights"), found, wanted, strict=True)]
        pairs += [(name, result.inputs[name], now) for name, now in data(cfg).items() if name in result.inputs]
        if different := [f"{name} {then} instead of {now}" for name, then, now in pairs if then != now]:
            raise AggregateError(
                f"'{folder}' holds the trial of something else ({'; '.join(different)}); give another output folder"
            )
        logger.info("seed %d: finished before, skipped", seed)
        return result
    logger.info("seed %d in %s", seed, folder)
    if dist.is_main():
        forget_failure(folder)
    try:
        engine.train(cfg, resume="auto", num_gpus=num_gpus)
        return results.add_notes(cfg.OUTPUT_DIR, notes)
    except LockError:  # the other run's trial has not failed
        raise
    except (*TRIAL_ERRORS, ValueError) as error:  # ConfigError and DatasetError are ValueErrors
        if dist.is_main():
            write_failure(folder, _reason(error))
        raise


def _reason(error: BaseException) -> str:
    found = fault(error)
    return found.words if found is not None else str(error) or type(error).__name__


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

    A failed trial does not stop the others, but the row is then not made; calling this again retries what failed.

    Args:
        opts: options for every trial; OUTPUT_DIR and SEED are set per trial.
        seeds: non-negative and distinct, one trial for each.
        num_gpus: see `Engine.train`. In a process group every process calls this, and the main one writes the row; the
            first failure then ends the call, since the processes may no longer be in step.
        notes: lines for the notes of every trial's result.

    Raises:
        ConfigError, DatasetError: the engine raised it; finished trials stay finished.
        LockError: another run works in a trial's folder.
        TrialsFailed: some trials failed, after all the others were run.
        AggregateError: a folder holds the trial of another config, engine, weights or data.
    """
    output_dir = Path(output_dir)
    if not seeds or any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise AggregateError(f"seeds are {list(seeds)}; give one trial or more, seeds different and not negative")
    finished, failed = [], {}
    digests: list[Mapping[str, str]] = []

    def data(cfg: CfgNode) -> Mapping[str, str]:
        """Returns what all trials share, computed for the first that is finished: it takes seconds for a large set."""
        if not digests:
            digests.append(data_digests(cfg))
        return digests[0]

    for n, seed in enumerate(seeds, 1):
        logger.info("trial %d of %d", n, len(seeds))
        try:
            finished.append(run_trial(engine, config, opts, output_dir, seed, num_gpus, notes, data))
        except LockError:  # somebody else makes this row
            raise
        except TRIAL_ERRORS as error:
            if dist.is_initialized():
                raise
            failed[seed] = _reason(error)
            explained = isinstance(error, EXPLAINED) or fault(error) is not None
            logger.error("seed %d failed: %s", seed, failed[seed], exc_info=not explained)
    if failed:
        alike = {reason: [str(s) for s in failed if failed[s] == reason] for reason in failed.values()}
        reasons = "; ".join(f"seed{'s' * (len(s) > 1)} {', '.join(s)}: {reason}" for reason, s in alike.items())
        raise TrialsFailed(
            f"{len(finished)} of {len(seeds)} trials finished, {len(failed)} failed, so there is no row ({reasons}); "
            "run again to retry them"
        )
    row = aggregate(finished)
    if dist.is_main():
        checkpoint.save_json(row.to_json(), output_dir / AGGREGATE_FILE)
    return row
