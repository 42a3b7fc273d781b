"""Finds, before anything runs, what an experiment needs and this machine lacks, each with its remedy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.runtime import shard_names
from pretrain.runtime.config import ConfigError
from transfer.config.load import digest, load_config
from transfer.convert.sharded import sha256
from transfer.data import catalog
from transfer.data.formats import format_of
from transfer.data.missing import Missing
from transfer.data.spec import DatasetError
from transfer.engines.data import check_run_data
from transfer.trials.aggregate import AggregateError
from transfer.trials.inputs import expanded, is_present, pretraining_data, probed_data
from transfer.trials.plan import Plan
from transfer.trials.recorded import recorded
from transfer.trials.rows import Job, Probe, Row


def missing(plan: Plan) -> list[Missing]:
    """Returns, each once, the weights, data and parts of the engine that the chosen rows need and that are not here.

    A file of weights whose SHA-256 differs from the one in the experiment counts as missing.
    """
    e, found = plan.experiment, dict[str, Missing]()
    runs = {kind for kind in ("pretrain", "convert", "trials") if not plan.only or kind in plan.only}
    for column, row in plan.runs() if runs & {"convert", "trials"} else ():
        if (lacking := _weights(row)) is not None:
            found.setdefault(str(row.file), lacking)
        run = row.entry(column).run
        if "trials" in runs and isinstance(run, Job):
            cfg = load_config(run.config, run.opts, plan.engine.defaults())
            for lacking in (*(_data(cfg) if e.generated is None else ()), *plan.engine.missing(cfg)):
                found.setdefault(lacking.what, lacking)
    if e.generated is not None:
        return list(found.values())
    for name in plan.pretrainings if "pretrain" in runs else ():
        place = pretraining_data(e.pretrain[name].config, e.pretrain[name].opts)
        if not _exists(place):
            remedy = "give DATA.TRAIN a folder of images, a .txt list of them, or .tar shards"
            found.setdefault(str(place), Missing(f"pre-training images '{place}' of '{name}'", remedy))
    probes = [run for column, row in plan.runs() if isinstance(run := row.entry(column).run, Probe)]
    for probe in probes if "trials" in runs else ():
        for option, folder in probed_data(probe).items():
            if not _exists(folder):
                remedy = (
                    f"give {option} of the probe a folder that holds a folder of images per class, or a file of labels"
                )
                found.setdefault(str(folder), Missing(f"labelled images '{folder}'", remedy))
    return list(found.values())


def check(*plans: Plan, here: bool = True) -> None:
    """Refuses, before the first of the plans' stages, what would end one of them hours or days later.

    Everything that is missing is listed, each thing once. Then the configs of pre-trainings and probes are read, and
    the fine-tunings of unfinished rows are checked as their own start would, once for rows of one config: the engine's
    and the linter's refusals, the data sets with the header of every image, and the devices.

    Args:
        here: whether the stages run on this machine, whose devices then have to do.

    Raises:
        ConfigError: something is missing, or a stage could not start; the message names it.
    """
    if lacking := dict.fromkeys(str(found) for plan in plans for found in missing(plan)):
        raise ConfigError("cannot run yet, missing:\n" + "\n".join(lacking))
    for plan in plans:
        if lines := refused(plan):
            raise ConfigError("\n".join(lines))
        for row, cfg in _fine_tunings(plan):
            try:
                if plan.experiment.generated is None:
                    check_run_data(cfg, training=True)
            except (ConfigError, DatasetError) as error:
                raise ConfigError(f"row '{row.name}' cannot train: {error}") from error
            if here and (unfit := plan.engine.unfit_device(cfg)) is not None:
                raise ConfigError(f"row '{row.name}' cannot train here: {unfit}")


def refused(plan: Plan) -> list[str]:
    """Returns a line for each stage whose config its command, the engine or the linter refuses."""
    asked: list[tuple[str, Callable[[], object]]] = []
    for name in plan.pretrainings if not plan.only or "pretrain" in plan.only else ():
        job = plan.experiment.pretrain[name]
        asked.append((f"pre-training '{name}'", _reader(plan, "pretrain", job.config, job.opts)))
    for column, row in plan.runs() if not plan.only or "trials" in plan.only else ():
        if isinstance(run := row.entry(column).run, Probe) and run.config is not None:
            what = f"{run.protocol} of '{row.name}'"
            weights = ["MODEL.WEIGHTS", "" if row.pretrain is None and row.file is None else "a checkpoint"]
            asked.append((column.prefix + what, _reader(plan, run.protocol, run.config, [*run.opts, *weights])))
    for row, cfg in _fine_tunings(plan):
        asked.append((f"row '{row.name}'", functools.partial(plan.engine.check_config, cfg)))
    lines = []
    for what, ask in asked:
        try:
            ask()
        except (ConfigError, DatasetError) as error:
            lines.append(f"{what} cannot train: {error}")
    return lines


def _reader(plan: Plan, kind: str, config: Path, opts: Sequence[str]) -> Callable[[], object]:
    """Returns a function that reads a config, or does nothing if the plan cannot read this kind."""
    read = plan.readers.get(kind)
    return (lambda: None) if read is None else functools.partial(read, config, opts, plan.num_gpus)


def _fine_tunings(plan: Plan) -> Iterator[tuple[Row, CfgNode]]:
    """Yields the configs of the chosen rows that are fine-tuned and not finished, each once with its first row."""
    seen: set[str] = set()
    for column, row in plan.runs() if not plan.only or "trials" in plan.only else ():
        job = row.job(column)
        try:
            finished = job is None or recorded(plan, column, row) is not None
        except AggregateError:  # a damaged record is written anew once all trials are done
            finished = False
        if job is None or finished:
            continue
        cfg = plan.config(job.config, job.opts)
        if (key := digest(cfg)) not in seen:
            seen.add(key)
            yield row, cfg


def _data(cfg: CfgNode) -> Iterator[Missing]:
    """Yields the data sets of a fine-tuning that are not here."""
    for spec in catalog.resolve((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.DATASETS.SPECS):
        if not is_present(spec):
            remedy = spec.remedy or "check the paths of its spec file, see datasets/README.md"
            yield Missing(f"data set '{spec.name}' ({format_of(spec).place(spec)})", remedy)


def _weights(row: Row) -> Missing | None:
    """Returns a row's file if it is not here or is not the one that the experiment means."""
    if row.file is None:
        return None
    remedy = row.get + (f"; to make them anew takes about {row.cost}" if row.cost else "")
    if not row.file.is_file():
        return Missing(f"weights '{row.file}' of row '{row.name}'", remedy)
    if row.sha256 and not (found := sha256(row.file)).startswith(row.sha256):
        what = f"'{row.file}' is not the file of row '{row.name}': its SHA-256 is {found}, not {row.sha256}"
        return Missing(what + "..." * (len(row.sha256) < 64), remedy or "copy it again, or correct sha256")
    return None


def _exists(path: str | None) -> bool:
    """Returns whether a path, or everything that the name of shards stands for, is here."""
    if path is None or expanded(path).exists():
        return path is not None
    try:
        return bool(shard_names.expand(str(expanded(path))))
    except ConfigError:
        return False
