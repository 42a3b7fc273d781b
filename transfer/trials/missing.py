"""What an experiment needs and this machine lacks: found before anything runs, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transfer.config.load import load_config
from transfer.convert.sharded import sha256
from transfer.data import catalog
from transfer.data.formats import format_of
from transfer.trials.inputs import expanded, is_present, pretraining_data, probed_data
from transfer.trials.reproduce import Plan
from transfer.trials.rows import Job, Probe, Row


@dataclass(frozen=True)
class Missing:
    """Something that the experiment needs and this machine lacks."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"  - {self.what}" + (f": {self.remedy}" if self.remedy else "")


def missing(plan: Plan) -> list[Missing]:
    """Weights, data sets and image folders that the chosen rows need and that are not here, each once.

    A file of weights that is here and has another SHA-256 than the experiment says counts as missing.
    """
    e, found = plan.experiment, dict[str, Missing]()
    runs = {kind for kind in ("pretrain", "convert", "trials") if not plan.only or kind in plan.only}
    for column, row in plan.runs() if runs & {"convert", "trials"} else ():
        if (lacking := _weights(row)) is not None:
            found.setdefault(str(row.file), lacking)
        run = row.entry(column).run
        if e.generated is None and "trials" in runs and isinstance(run, Job):
            found |= {key: value for key, value in _data(plan, run) if key not in found}
    if e.generated is not None:
        return list(found.values())
    for name in plan.pretrainings if "pretrain" in runs else ():
        folder = pretraining_data(e.pretrain[name].config, e.pretrain[name].opts)
        if not _exists(folder):
            remedy = "give DATA.TRAIN a folder of images"
            found.setdefault(str(folder), Missing(f"pre-training images '{folder}' of '{name}'", remedy))
    probes = [run for column, row in plan.runs() if isinstance(run := row.entry(column).run, Probe)]
    for probe in probes if "trials" in runs else ():
        for option, folder in probed_data(probe).items():
            if not _exists(folder):
                remedy = f"give {option} of the probe a folder that holds a folder of images per class"
                found.setdefault(str(folder), Missing(f"labelled images '{folder}'", remedy))
    return list(found.values())


def _data(plan: Plan, job: Job) -> Iterator[tuple[str, Missing]]:
    """The data sets of a fine-tuning that are not here, by name."""
    cfg = load_config(job.config, job.opts, plan.engine.defaults())
    for spec in catalog.resolve((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.DATASETS.SPECS):
        if not is_present(spec):
            remedy = spec.remedy or "check the paths of its spec file, see datasets/README.md"
            yield spec.name, Missing(f"data set '{spec.name}' ({format_of(spec).place(spec)})", remedy)


def _weights(row: Row) -> Missing | None:
    """A row's file, if it is not here or is another one than the experiment means."""
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
    return path is not None and expanded(path).exists()
