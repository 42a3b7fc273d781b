"""Runs a plan: here in order, here side by side, or on a SLURM cluster. Submitit does the last two.

A chain of stages that cannot be finished does not stop the others. The dry run shows every stage's command, so that any
other scheduler can run it; a command that exits with code 75 must be run again, and then continues.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.runtime import checkpoint
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import open_regular
from pretrain.runtime.log import progress
from pretrain.runtime.result import FILE_NAME, RunResult
from transfer.trials.aggregate import aggregate
from transfer.trials.gpus import gpu_slots
from transfer.trials.jobs import Outcome, Work, run_chain
from transfer.trials.launcher import Launcher
from transfer.trials.plan import Chain, Plan
from transfer.trials.preflight import check
from transfer.trials.remaining import remaining
from transfer.trials.run import AGGREGATE_FILE, trial_folder
from transfer.trials.stages import Stage

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # of a job that was killed without a word
_POLL = 0.2  # seconds
_BAR = re.compile(r"([^\r\n|]+?):\s+(\d+%)\|")  # what tqdm begins with


def run(plan: Plan, launcher: Launcher | None = None) -> list[Outcome]:
    """Runs every stage that is not done, and writes `trials.json` of every row whose trials are complete.

    Args:
        launcher: where the chains run; by default here, one after the other.

    Returns:
        One outcome per stage. After a stage that was asked to stop here, the rest is left for the next call.

    Raises:
        ConfigError: something is missing (the message lists all of it), a fine-tuning could not start (see
            `preflight.check`), or submitit is needed and not installed.
    """
    launcher = launcher or Launcher(jobs=1)
    here = launcher.kind == "local"
    check(plan, here=here)
    slots = gpu_slots(plan.num_gpus, launcher.jobs, launcher.per_gpu) if here else []
    outcomes: list[Outcome] = []
    every = plan.outline()
    place = {stage.folder: f"stage {n} of {len(every)}" for n, stage in enumerate(every, 1)}

    def begin(stage: Stage) -> None:
        logger.info("%s: %s; %s", place[stage.folder], stage.name, remaining(every))

    for chains in plan.waves():
        if launcher.kind == "slurm":
            outcomes += _on_slurm(plan, chains, launcher)
        elif len(slots) > 1 and len(chains) > 1:
            logger.info("%d jobs, %d side by side; of all, %s", len(chains), len(slots), remaining(every))
            outcomes += _side_by_side(plan, chains, slots)
        else:
            for chain in chains:
                outcomes += run_chain(chain, begin=begin)
                if any(outcome.state == "stopped" for outcome in outcomes):
                    return outcomes
    return outcomes + _rows(plan)


def _side_by_side(plan: Plan, chains: Sequence[Chain], slots: Sequence[tuple[int, ...]]) -> list[Outcome]:
    """Runs at most one chain per slot at a time, each with its slot's GPUs, through submitit's local executor."""
    submitit, folder = _submitit(), jobs_folder(plan)

    def submit(work: Work, slot: int) -> Any:
        gpus = slots[slot]
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60 * 24 * 365, gpus_per_node=len(gpus), visible_gpus=gpus)
        with _as_a_job(len(slots)):
            return executor.submit(work)

    done, works = _not_done(chains)
    return done + _pool(works, submit, len(slots))


@contextmanager
def _as_a_job(jobs: int) -> Iterator[None]:
    """Sets what a process started here inherits: its share of the cores, and SIGINT, by which submitit cancels it.

    Jobs that each take all cores are far slower; OMP_NUM_THREADS stays if it is set. SIGINT is restored because a shell
    script starts its background jobs with SIGINT ignored.
    """
    given, handler = os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT)
    os.environ["OMP_NUM_THREADS"] = given or str(max(1, len(os.sched_getaffinity(0)) // jobs))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if given is None:
            del os.environ["OMP_NUM_THREADS"]


def _pool(works: Sequence[Work], submit: Callable[[Work, int], Any], slots: int) -> list[Outcome]:
    """Calls `submit(work, slot)` for all works, with one at a time in each slot."""
    outcomes: dict[int, list[Outcome]] = {}
    waiting, running = list(enumerate(works)), dict[int, tuple[int, Any]]()
    attempts = [0] * len(works)
    bar, due = progress(len(works), "jobs", unit="job"), 0.0
    try:
        while waiting or running:
            for slot in [s for s in range(slots) if s not in running][: len(waiting)]:
                n, work = waiting.pop(0)
                running[slot] = n, submit(work, slot)
                _announce(work, running[slot][1])
            for slot, (n, job) in list(running.items()):
                if not job.done():
                    continue
                del running[slot]
                attempts[n] += 1
                if (found := _result(works[n], job, attempts[n])) is None:
                    waiting.insert(0, (n, works[n]))
                else:
                    outcomes[n] = found
                    bar.update()
            if time.monotonic() >= due and running:
                bar.set_postfix_str("; ".join(_how_far(works[n], job.paths.stderr) for n, job in running.values()))
                due = time.monotonic() + (1.0 if sys.stderr.isatty() else 30.0)
            time.sleep(_POLL)
    finally:  # Ctrl-C: the jobs would go on without us
        bar.close()
        for _, job in running.values():
            job.cancel()
    return [outcome for n in range(len(works)) for outcome in outcomes[n]]


def _how_far(work: Work, log: Path) -> str:
    """Returns a job's progress: the name of its chain's last stage, and the last progress bar in its log."""
    try:
        with open_regular(log) as f:
            f.seek(max(0, log.stat().st_size - 4096))
            bars = _BAR.findall(f.read().decode(errors="replace"))
    except OSError:  # it has not begun
        bars = []
    return " ".join([f"{work.chain[-1].name}:", *(bars[-1] if bars else ("...",))])


def _on_slurm(plan: Plan, chains: Sequence[Chain], launcher: Launcher) -> list[Outcome]:
    """Submits all unfinished chains as one job array; SLURM decides when each runs, and puts preempted ones back."""
    submitit = _submitit()
    outcomes, works = _not_done(chains)
    if not works:
        return outcomes
    parameters: dict[str, Any] = {
        "name": plan.experiment.output.name,
        "timeout_min": 24 * 60,
        "gpus_per_node": plan.num_gpus,
        "slurm_signal_delay_s": 300,
    }
    if launcher.jobs:
        parameters["slurm_array_parallelism"] = launcher.jobs
    executor = submitit.AutoExecutor(jobs_folder(plan), cluster="slurm", slurm_max_num_timeout=100)
    try:
        executor.update_parameters(**(parameters | dict(launcher.options)))
    except (NameError, TypeError, ValueError) as error:  # a parameter that submitit or sbatch does not have
        raise ConfigError(f"--slurm: {error}") from error
    with executor.batch():
        jobs = [executor.submit(work) for work in works]
    for work, job in zip(works, jobs, strict=True):
        _announce(work, job)
    for work, job in zip(works, jobs, strict=True):
        attempt = 1
        while (found := _result(work, job, attempt)) is None:
            attempt, job = attempt + 1, executor.submit(work)
            _announce(work, job)
        outcomes += found
    return outcomes


def _not_done(chains: Sequence[Chain]) -> tuple[list[Outcome], list[Work]]:
    """Returns the outcomes of the chains that need no job, and the other chains as work."""
    outcomes: list[Outcome] = []
    works = []
    for chain in chains:
        if all(stage.is_done() for stage in chain):
            outcomes += [Outcome(stage.name, stage.folder, "done") for stage in chain]
        else:
            works.append(Work(chain))
    return outcomes, works


def _announce(work: Work, job: Any) -> None:
    logger.info("job %s: %s; its log: %s", job.job_id, work.name, job.paths.stderr)


def _result(work: Work, job: Any, attempt: int) -> list[Outcome] | None:
    """Returns the outcomes of a job once it is over, or None if it must be submitted again."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        outcomes: list[Outcome] = job.result()
    except UncompletedJobError as error:
        if attempt < _ATTEMPTS:
            logger.warning("job %s ended without a result; submitting it again", job.job_id)
            return None
        return work.lost(f"job {job.job_id} ended {attempt} times without a result: {str(error).splitlines()[0]}")
    except FailedJobError as error:
        return work.lost(f"job {job.job_id} failed: {str(error).strip().splitlines()[-1]}")
    logger.info("job %s: %s", job.job_id, ", ".join(f"{o.stage}: {o.state}" for o in outcomes))
    return outcomes


def jobs_folder(plan: Plan) -> Path:
    """Returns the folder in which submitit keeps its files and the logs of the jobs."""
    return plan.experiment.output / "jobs"


def _rows(plan: Plan) -> list[Outcome]:
    """Writes `trials.json` of every complete row; returns an outcome per row whose trials do not belong together."""
    problems = []
    for column, row in plan.runs():
        if column.probe is not None:
            continue
        folder = plan.row_folder(column, row)
        trials = [trial_folder(folder, seed) for seed in column.seeds]
        if all((trial / FILE_NAME).is_file() for trial in trials):
            try:
                whole = aggregate([RunResult.load(trial) for trial in trials])
                checkpoint.save_json(whole.to_json(), folder / AGGREGATE_FILE)
            except ValueError as error:  # AggregateError is one
                problems.append(Outcome(f"{column.prefix}row '{row.name}'", folder, "failed", str(error)))
    return problems


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            "trials side by side and --launcher slurm need submitit: pip install submitit; or use --launcher local "
            "--jobs 1"
        ) from error
    return submitit
