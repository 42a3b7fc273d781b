"""Finds, before anything runs, what an experiment needs and this machine lacks, each with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.runtime import shard_names
from pretrain.runtime.config import ConfigError
from pretrain.runtime.errors import ExpectedError
from transfer.config.initial_weights import weights_facts
from transfer.config.load import digest, load_config
from transfer.convert.architecture import infer_architecture
from transfer.convert.convert import take
from transfer.convert.keymap import trunk_to_detectron2
from transfer.convert.sharded import sha256
from transfer.data import catalog
from transfer.data.formats import format_of
from transfer.data.missing import Missing
from transfer.engines.data import check_run_data
from transfer.trials.aggregate import AggregateError
from transfer.trials.inputs import expanded, is_present, pretraining_data, probed_data
from transfer.trials.output_folders import needs_conversion
from transfer.trials.plan import Plan
from transfer.trials.recorded import recorded
from transfer.trials.rows import Job, Probe, Row


def missing(plan: Plan) -> list[Missing]:
    """Returns, each once, the weights, data and parts of the engine that the chosen rows need and that are not here.

    A file of weights whose SHA-256 differs from the one in the experiment counts as missing.
    """
    e, found = plan.experiment, dict[str, Missing]()
    runs = {kind for kind in ("pretrain", "convert", "trials") if _runs(plan, kind)}
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

    Everything that is missing is listed, each thing once; then every stage that could not start (see `refused`).

    Args:
        here: whether the stages run on this machine, whose devices then have to do.

    Raises:
        ConfigError: something is missing, or stages could not start; the message names them.
    """
    if lacking := dict.fromkeys(str(found) for plan in plans for found in missing(plan)):
        raise ConfigError("cannot run yet, missing:\n" + "\n".join(lacking))
    if lines := [line for plan in plans for line in refused(plan, thorough=True, here=here)]:
        raise ConfigError("\n".join(lines))


def refused(plan: Plan, thorough: bool = False, here: bool = False) -> list[str]:
    """Returns what the own starts of stages would refuse, and of which stages; rows that are finished are not asked.

    Pre-trainings and probes are asked for their configs, fine-tunings (once for rows of one config and file) for what
    the engine and the linter refuse, the architecture of the trunk that a pre-training will leave included.

    Args:
        thorough: also ask for images, for data sets with the header of every image, and for files of weights.
        here: also ask whether this machine's devices do.
    """
    e, trunks = plan.experiment, dict[str, Mapping[str, Any]]()
    found: dict[str, dict[str, None]] = {}  # what is wrong -> the stages, each once
    look = thorough and e.generated is None

    def ask(what: str, question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except ExpectedError as error:
            found.setdefault(f"cannot train: {error}", {})[what] = None
            return None

    for name in plan.pretrainings if _runs(plan, "pretrain") and "pretrain" in plan.readers else ():
        job, read = e.pretrain[name], plan.readers["pretrain"]
        tensors = ask(f"pre-training '{name}'", read, job.config, job.opts, plan.num_gpus, look)
        trunks[name] = _architecture(tensors) if tensors else {}
    for column, row in plan.runs() if _runs(plan, "trials") else ():
        if isinstance(run := row.entry(column).run, Probe) and (reader := plan.readers.get(run.protocol)) is not None:
            weights = ["MODEL.WEIGHTS", "" if row.pretrain is None and row.file is None else "a checkpoint"]
            opts = run.opts if run.config is None else (*run.opts, *weights)
            ask(f"{column.prefix}{run.protocol} of '{row.name}'", reader, run.config, opts, plan.num_gpus, look)
    opened: set[str] = set()
    for row, cfg in _fine_tunings(plan):
        what = f"row '{row.name}'"
        facts = trunks.get(row.pretrain or "")
        if row.file is not None and thorough:
            facts = ask(what, _facts, row.file)
        ask(what, plan.engine.check_config, cfg, plan.num_gpus, facts)
        if look and not any(what in stages for stages in found.values()) and (key := digest(cfg)) not in opened:
            opened.add(key)
            ask(what, check_run_data, cfg, True)
        if here and (unfit := plan.engine.unfit_device(cfg, plan.num_gpus)) is not None:
            found.setdefault(f"cannot train here: {unfit}", {})[what] = None
    return [f"{', '.join(stages)} {wrong}" for wrong, stages in found.items()]


def _runs(plan: Plan, kind: str) -> bool:
    return not plan.only or kind in plan.only


def _architecture(tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Returns what the linter compares with a config, of a trunk by torchvision's names."""
    named = ((trunk_to_detectron2(name), tensor) for name, tensor in tensors.items())
    return infer_architecture({name: tensor for name, tensor in named if name is not None}).facts()


def _facts(file: Path) -> Mapping[str, Any] | None:
    """Returns the same of a row's file; raises if it cannot be converted or loaded."""
    if not needs_conversion(file):
        return weights_facts(str(file))
    taken = take(file)
    return {**taken.facts, **taken.architecture.facts()}


def _fine_tunings(plan: Plan) -> Iterator[tuple[Row, CfgNode]]:
    """Yields the configs of the chosen rows that are fine-tuned and not finished, once for each initialisation."""
    seen: set[tuple[str, str | None, Path | None]] = set()
    for column, row in plan.runs() if _runs(plan, "trials") else ():
        job = row.job(column)
        try:
            finished = job is None or recorded(plan, column, row) is not None
        except AggregateError:  # a damaged record is written anew once all trials are done
            finished = False
        if job is None or finished:
            continue
        cfg = plan.config(job.config, job.opts)
        if (key := (digest(cfg), row.pretrain, row.file)) not in seen:
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
