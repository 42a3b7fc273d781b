"""What an experiment needs and this machine lacks: found before anything runs, each with its remedy."""

from __future__ import annotations

from dataclasses import dataclass

from transfer.config.load import load_config
from transfer.data import catalog
from transfer.trials.inputs import expanded, is_present, pretraining_data, probed_data
from transfer.trials.reproduce import Plan


@dataclass(frozen=True)
class Missing:
    """Something that the experiment needs and this machine lacks."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"  - {self.what}" + (f": {self.remedy}" if self.remedy else "")


def missing(plan: Plan) -> list[Missing]:
    """Weights, data sets and image folders that the chosen rows need and that are not here, each once."""
    e, found = plan.experiment, dict[str, Missing]()
    runs = {kind for kind in ("pretrain", "convert", "trials") if not plan.only or kind in plan.only}
    for row in plan.chosen if runs & {"convert", "trials"} else ():
        if row.file is not None and not row.file.is_file():
            remedy = row.get + (f"; to make them anew takes about {row.cost}" if row.cost else "")
            found.setdefault(str(row.file), Missing(f"weights '{row.file}' of row '{row.name}'", remedy))
        if e.generated is not None or e.probe is not None or "trials" not in runs:
            continue
        assert row.job is not None
        cfg = load_config(row.job.config, row.job.opts, plan.engine.defaults())
        for spec in catalog.resolve((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.DATASETS.SPECS):
            if not is_present(spec):
                remedy = "see datasets/README.md; $DETECTRON2_DATASETS names the folder that holds the data sets"
                found.setdefault(spec.name, Missing(f"data set '{spec.name}' ({spec.json_file or spec.root})", remedy))
    if e.generated is not None:
        return list(found.values())
    for name in plan.pretrainings if "pretrain" in runs else ():
        folder = pretraining_data(e.pretrain[name].config, e.pretrain[name].opts)
        if not _exists(folder):
            remedy = "give DATA.TRAIN a folder of images"
            found.setdefault(str(folder), Missing(f"pre-training images '{folder}' of '{name}'", remedy))
    for option, folder in probed_data(e.probe).items() if "trials" in runs else ():
        if not _exists(folder):
            remedy = f"give {option} of the probe a folder that holds a folder of images per class"
            found.setdefault(str(folder), Missing(f"labelled images '{folder}'", remedy))
    return list(found.values())


def _exists(path: str | None) -> bool:
    return path is not None and expanded(path).exists()
