"""Reads experiment files, which hold a paper's table as data; each is checked whole before anything runs.

    title: MoCo, Table 4
    source: where the published numbers stand
    output: work/table4             # where everything goes; --output-dir overrides it
    trials: 5                       # seeds 1..5 per row
    metrics: [AP50, AP, AP75]
    data: {generated: {seed: 0, scenes_test: 200}}          # optional: data to generate first, in <output>/data
    pretrain: {moco: {config: ../pretrain/x.yaml, opts: [KEY, VALUE]}}      # optional: trunks to pre-train
    transfer: {config: ../transfer/voc/y.yaml, opts: [KEY, VALUE]}
    rows:
      - {name: random init, weights: null, published: {AP50: 60.2, AP: 33.8, AP75: 33.1}}
      - {name: MoCo, weights: {pretrain: moco}}
      - {name: MoCo v1, weights: {file: weights/moco_v1.pth.tar, get: "where to download it"}, config: ..., opts: [...]}
      - {name: supervised, weights: {file: weights/r50.pth, sha256: "0676ba61"}}        # or its first 8 digits or more
      - {name: Jigsaw, published: {AP50: 61.4}}             # without weights: published only, nothing is run

Instead of `transfer`, an experiment may evaluate the representation itself; every seed then pre-trains anew:

    probe: {protocol: knn, opts: [--train, "{data}/iconic/train", --val, "{data}/iconic/val"]}
    probe: {protocol: linear, config: ../pretrain/lincls_R_50.yaml, opts: [DATA.TRAIN, imagenet/train, DATA.VAL, ...]}
    probe: {protocol: finetune, config: ../pretrain/finetune_R_50_imagenet.yaml, opts: [...]}  # weights may be null

A table with several columns names them; a pre-training is then made once, and all columns start from it:

    columns:
      ImageNet: {probe: {...}, trials: 1, metrics: [linear/acc1]}         # anew: true as in the form above
      VOC: {transfer: {...}, trials: 5, metrics: [AP50, AP, AP75], source: where this column's numbers stand}
    rows:
      - name: MoCo
        weights: {pretrain: moco}
        published: {ImageNet: {linear/acc1: 60.6}, VOC: {AP50: 81.5}}
        columns: {VOC: {config: ..., opts: [...]}, ImageNet: null}        # its own there; null: not run there

A file may also say what its rows should show; this is judged once every trial is there (see `report.judgement`):

    findings:
      - {claim: MoCo is ahead of random init., source: "MoCo, Table 2", row: MoCo, than: random init, metric: AP}
      - {claim: longer is better, source: ..., row: MoCo, column: 2x, than: MoCo, than_column: 1x, metric: AP}

Paths of configs are relative to the file; `{data}` in an option stands for `<output>/data`. What a paper says a
pre-training, a fine-tuning or the making of a file's weights costs stands beside it, for one trial:

    cost: {gpu_hours: 424, source: "53 h on 8 V100, MoCo"}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pretrain.runtime.config import ConfigError, load_yaml_of, load_yaml_with_base
from pretrain.runtime.config_kinds import EXPERIMENT
from pretrain.runtime.shipped import beside
from pretrain.runtime.slug import check_unique, folder
from pretrain.runtime.wording import did_you_mean, short
from transfer.evaluation.metric import Metric
from transfer.evaluation.protocols import PROTOCOLS, Protocol
from transfer.trials import experiment_file as said
from transfer.trials.metrics import find, of_fine_tuning
from transfer.trials.rows import Column, Cost, Entry, Experiment, Finding, Job, Probe, Published, Row

RESERVED = {
    "OUTPUT_DIR": "`output`, and a folder per trial",
    "--output-dir": "`output`, and a folder per trial",
    "MODEL.WEIGHTS": "`weights` of the rows",
}
"""Keys that the experiment sets itself; a SEED among options is overridden by the trial's."""


def load_experiment(
    path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, trials: int | None = None
) -> Experiment:
    """Reads an experiment file.

    Args:
        output: overrides the file's own output folder.
        trials: overrides the file's own number of trials, in every column.

    Raises:
        ConfigError: the file is for another command, keys are unknown or missing, values are of another type, no
            protocol has a metric, a config does not exist, a row names an unknown pre-training or column, or names
            would share a folder.
    """
    path = Path(path)
    data = load_yaml_of(EXPERIMENT, path)
    if trials is not None:
        if not 1 <= trials <= said.MOST_TRIALS:
            raise ConfigError(f"trials is {trials}; give a number from 1 to {said.MOST_TRIALS}")
        if isinstance(data.get("columns"), dict):
            given = {k: {**c, "trials": trials} if isinstance(c, dict) else c for k, c in data["columns"].items()}
            data = {**data, "columns": given}
        else:
            data = {**data, "trials": trials}
    file = said.parse(data, path)
    out = Path(output if output is not None else file.output or f"work/{path.stem}")
    read = _Reader(path, out, file.pretrain)
    if isinstance(file, said.Columns):
        columns = {name: read.column(name, column) for name, column in file.columns.items()}
        defaults = {name: read.run(f"columns.{name}", column) for name, column in file.columns.items()}
        source = file.source
        shown = tuple(replace(c, source=c.source or source) for c in columns.values())
        rows = tuple(read.row(row, _entries(read, row, columns, defaults)) for row in file.rows)
    else:
        column = replace(read.column("", file), anew=file.probe is not None)
        shown = (column,)
        default = read.run("", file)
        rows = tuple(read.row(row, {"": read.plain_entry(row, column, default)}) for row in file.rows)
    generated = file.data.generated or {} if "data" in data else None
    findings = tuple(read.finding(n, given, shown, rows) for n, given in enumerate(file.findings))
    experiment = Experiment(path, file.title, out, shown, rows, read.pretrain, generated, findings, file.remark)
    _check_folders(experiment)
    return experiment


def _entries(
    read: _Reader, row: said.ColumnsRow, columns: Mapping[str, Column], defaults: Mapping[str, Job | Probe]
) -> dict[str, Entry]:
    where = f"row '{row.name}'"
    for name in (*row.columns, *row.published):
        if name not in columns:
            raise read.error(where, f"no column is called {short(name)}{did_you_mean(name, columns)}"
                                    f" (columns are {', '.join(columns)})")  # fmt: skip
    entries = {}
    for name, column in columns.items():
        published = read.published(row.published.get(name, {}), column, where)
        override = row.columns.get(name, said.Override())
        run = None
        if row.runs and override is not None:
            run = read.override(defaults[name], override, f"{where}: columns.{name}")
            if row.weights is None and column.needs_weights:
                raise read.error(
                    where, f"frozen features need weights; write `columns: {{{name}: null}}` to leave it out there"
                )
            read.check_scratch(row, run, where)
        if run is not None or published:
            entries[name] = Entry(run, published)
    return entries


class _Reader:
    """Turns a file's parsed content into an experiment; the errors of `error` name the file."""

    def __init__(self, path: Path, out: Path, pretrain: Mapping[str, said.JobModel]):
        self.path, self.out = path, out
        self.pretrain = {name: self.job(job, f"pretrain.{name}", reserved=("OUTPUT_DIR",))
                         for name, job in pretrain.items()}  # fmt: skip

    def error(self, where: str, what: str) -> ConfigError:
        return ConfigError(f"{self.path}: {where and f'{where}: '}{what}")

    def column(self, name: str, given: said.OneColumn | said.ColumnModel) -> Column:
        where = f"columns.{name}" if name else ""
        protocols = of_fine_tuning() if given.probe is None else (PROTOCOLS[given.probe.protocol],)
        names = given.metrics or _shown(protocols)
        metrics = tuple(self.metric(m, protocols, f"{where}.metrics".lstrip(".")) for m in names)
        if len({m.key for m in metrics}) < len(metrics):
            raise self.error(where, f"metrics: one stands twice in {', '.join(names)}; keep one of them")
        anew = isinstance(given, said.ColumnModel) and given.anew
        if anew and given.probe is None:
            raise self.error(where, "anew is of a probe; fine-tunings start from one pre-training")
        probe = None if given.probe is None else given.probe.protocol
        return Column(name, given.trials, metrics, given.source, probe, anew)

    def metric(self, name: str, protocols: tuple[Protocol, ...], where: str) -> Metric:
        try:
            return find(name, protocols)
        except ConfigError as error:
            raise self.error(where, str(error)) from None

    def run(self, where: str, given: said.OneColumn | said.ColumnModel) -> Job | Probe:
        if given.transfer is not None:
            return self.job(given.transfer, f"{where}.transfer".lstrip("."))
        assert given.probe is not None
        where = f"{where}.probe".lstrip(".")
        config = self.config(given.probe.config, where) if given.probe.config else None
        return Probe(given.probe.protocol, self.opts(given.probe.opts, where), config)

    def job(self, given: said.JobModel, where: str, reserved: tuple[str, ...] | None = None) -> Job:
        cost = _cost(given.cost)
        return Job(self.config(given.config, where), self.opts(given.opts, where, reserved), cost)

    def config(self, given: str, where: str) -> Path:
        config = Path(os.path.normpath(beside(self.path, given)))
        if not config.is_file():
            raise self.error(where, f"its config is {short(given)}, but '{config}' does not exist")
        return config

    def opts(self, given: tuple[str, ...], where: str, reserved: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Returns the options with `{data}` filled in; refuses those that the experiment itself decides."""
        for key in given[::2]:
            if key in (RESERVED if reserved is None else reserved):
                raise self.error(where, f"{key} is the experiment's to set ({RESERVED[key]}); leave it out of opts")
        return tuple(word.replace("{data}", str(self.out / "data")) for word in given)

    def override(self, run: Job | Probe, given: said.Override | said.PlainRow, where: str) -> Job | Probe:
        run = replace(run, opts=(*run.opts, *self.opts(given.opts, where)))
        if not given.config:
            return run
        if run.config is None:
            raise self.error(where, "knn has no config")
        return replace(run, config=self.config(given.config, where))

    def plain_entry(self, row: said.PlainRow, column: Column, default: Job | Probe) -> Entry:
        where = f"row '{row.name}'"
        if row.runs and row.weights is None and column.needs_weights:
            raise self.error(where, "frozen features need weights; name a pre-training or a file")
        run = self.override(default, row, where) if row.runs else None
        self.check_scratch(row, run, where)
        return Entry(run, self.published(row.published, column, where))

    def check_scratch(self, row: said.PlainRow | said.ColumnsRow, run: Job | Probe | None, where: str) -> None:
        """Checks that a classifier from scratch, which has no checkpoint to say so, has its architecture stated."""
        if row.weights is None and isinstance(run, Probe) and run.config is not None:
            model = load_yaml_with_base(run.config).get("MODEL")
            given = dict(zip(run.opts[::2], run.opts[1::2], strict=True))
            if not given.get("MODEL.ARCH", isinstance(model, Mapping) and model.get("ARCH")):
                raise self.error(where, "weights are null, so nothing says the architecture; add MODEL.ARCH to opts")

    def published(self, given: Mapping[str, Published], column: Column, where: str) -> dict[str, Published]:
        protocols = self.protocols(column)
        keys = [self.metric(name, protocols, f"{where}: published").key for name in given]
        if len(set(keys)) < len(keys):
            raise self.error(where, f"published: a metric stands twice in {', '.join(given)}; keep one of them")
        return dict(zip(keys, given.values(), strict=True))

    def finding(self, n: int, given: said.FindingModel, columns: Sequence[Column], rows: Sequence[Row]) -> Finding:
        """Reads a claim about two rows that are both run, in one column or in two."""
        where = f"findings[{n}]"
        by_name = {column.name: column for column in columns}
        beneath = given.than_column or given.column
        for name in (given.column, beneath):
            if name not in by_name:
                known = ", ".join(name for name in by_name if name) or "of one table; leave `column` out"
                raise self.error(where, f"no column is called {short(name)} (columns are {known})")
        column, than_column = by_name[given.column], by_name[beneath]
        for name, place in ((given.row, column), (given.than, than_column)):
            run = [row.name for row in rows if row.entry(place).run is not None]
            if name not in run:
                known = ", ".join(run)
                raise self.error(
                    where, f"no row that is run is called {short(name)}{did_you_mean(name, run)} ({known})"
                )
        metric = self.metric(given.metric, self.protocols(column), where)
        for place in (column, than_column):
            if metric not in place.metrics:
                shown = ", ".join(m.key for m in place.metrics)
                raise self.error(where, f"metric {given.metric} is none of the column's ({shown}); add it to `metrics`")
        return Finding(given.claim, given.source, column, given.row, than_column, given.than, metric, given.unless)

    def protocols(self, column: Column) -> tuple[Protocol, ...]:
        return of_fine_tuning() if column.probe is None else (PROTOCOLS[column.probe],)

    def row(self, given: said.PlainRow | said.ColumnsRow, entries: Mapping[str, Entry]) -> Row:
        w = given.weights
        if w is None:
            return Row(given.name, entries)
        if w.pretrain and w.pretrain not in self.pretrain:
            known = ", ".join(self.pretrain) or "none is defined"
            raise self.error(f"row '{given.name}'", f"no pre-training is called '{w.pretrain}' ({known})")
        file = Path(os.path.expandvars(os.path.expanduser(w.file))) if w.file else None
        return Row(given.name, entries, w.pretrain or None, file, w.get, _cost(w.cost), w.sha256)


def _shown(protocols: tuple[Protocol, ...]) -> list[str]:
    """Returns the metrics of a column that names none: the papers' three of detection, or a probe's first."""
    first = protocols[0].metrics
    return [metric.label for metric in first if metric.rule is not None] or [first[0].key]


def _cost(given: said.CostModel | None) -> Cost | None:
    return None if given is None else Cost(given.gpu_hours, given.source)


def _check_folders(e: Experiment) -> None:
    """Checks that rows, columns, pre-trainings and both kinds of conversions each have a folder of their own."""
    trunks = [(f"pre-training '{name}'", folder(name)) for name in e.pretrain]
    files = [(f"row '{row.name}'", row.slug) for row in e.rows if row.file is not None]
    try:
        check_unique([*trunks, *files])
        check_unique([(f"row {n}, '{row.name}',", row.slug) for n, row in enumerate(e.rows, 1)])
        check_unique([(f"column '{column.name}'", column.slug) for column in e.columns])
    except ConfigError as error:
        raise ConfigError(f"{e.path}: {error}") from None
