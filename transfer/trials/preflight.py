"""Finds, before anything runs, what an experiment needs and this machine lacks, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from pretrain.runtime import shard_names
from pretrain.runtime.config import ConfigError
from transfer.config.load import load_config
from transfer.convert.sharded import sha256
from transfer.data import catalog
from transfer.data.formats import format_of
from transfer.data.missing import Missing
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


def refuse_missing(*plans: Plan) -> None:
    """Raises ConfigError that lists everything missing for any of the plans, each once, before one of them runs."""
    if lacking := dict.fromkeys(str(found) for plan in plans for found in missing(plan)):
        raise ConfigError("cannot run yet, missing:\n" + "\n".join(lacking))


def refuse_device(plan: Plan) -> None:
    """Raises ConfigError if a fine-tuning of an unfinished row could not train on this machine's devices."""
    for column, row in plan.runs() if not plan.only or "trials" in plan.only else ():
        job = row.job(column)
        if job is None or recorded(plan, column, row) is not None:
            continue
        if (unfit := plan.engine.unfit_device(plan.config(job.config, job.opts))) is not None:
            raise ConfigError(f"row '{row.name}' cannot train here: {unfit}")


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
