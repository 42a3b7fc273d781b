"""Plans the stages from an experiment file to its table: data -> pre-training -> conversion -> trials per row.

Each stage is one command that also works by itself. Pre-training and transfer meet only in files.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.runtime.config import ConfigError, load_yaml_with_base
from pretrain.runtime.provenance import digest as digest_of
from pretrain.runtime.result import FILE_NAME as RESULT
from pretrain.runtime.slug import folder as folder_name
from transfer.config.load import digest, load_config
from transfer.config.scale import scale
from transfer.data import catalog
from transfer.trials.inputs import images, is_present, pretraining_data, probed_data
from transfer.trials.output_folders import PRETRAINED, TRUNK, OutputFolders, needs_conversion
from transfer.trials.rows import Column, Probe, Row
from transfer.trials.run import trial_folder
from transfer.trials.stages import Stage

_TRAINERS = {"linear": "linear_eval.py", "finetune": "finetune.py"}  # of a classifier, by protocol
KINDS = ("data", "pretrain", "convert", "trials")

Chain = tuple[Stage, ...]
"""Stages that run one after the other, each on what the one before has left."""


@dataclass(frozen=True)
class Plan(OutputFolders):
    """Says how to run an experiment on this machine: which stages, in which order, by which commands.

    Attributes:
        tools: the folder of the command-line tools.
        num_gpus: the number of processes of each training, one per GPU.
        auto_scale: images per batch of the fine-tunings, whose rate and schedule follow (see `config.scale`), or None.
        rows: names or slugs of the rows to run; empty means all.
        only: kinds of stages to run (`KINDS`); empty means all.
        listing: a function that computes the digest of a data set. For a large set this takes many seconds, so that a
            plan calls it once per set and wave; a function that remembers (`functools.cache`) is called once per set.
        readers: kind of run ("pretrain", or a probe's protocol) -> a function that raises ConfigError if the run would
            refuse its config file, options and number of processes or, if the last argument says so, its images; this
            half cannot read those configs. Of a pre-training it returns the trunk's tensors, by torchvision's names.

    Raises:
        ConfigError: no row has such a name, or there is no such kind of stage.
    """

    tools: Path
    num_gpus: int = 1
    auto_scale: int | None = None
    rows: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    listing: Callable[[catalog.DatasetSpec], str] = catalog.listing_digest
    readers: Mapping[str, Callable[[Path | None, Sequence[str], int, bool], Mapping[str, Tensor]]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.only) - set(KINDS)):
            raise ConfigError(f"--only {', '.join(unknown)}: stages are {', '.join(KINDS)}")
        names = {name for row in self.experiment.rows for name in (row.name, row.slug)}
        if unknown := [name for name in self.rows if name not in names]:
            known_rows = ", ".join(f"'{row.slug}'" for row in self.experiment.rows)
            raise ConfigError(f"--rows: no row is called '{unknown[0]}'; rows are {known_rows}")

    @property
    def chosen(self) -> tuple[Row, ...]:
        """Returns the rows that will be run."""
        return tuple(r for r in self.experiment.rows if not self.rows or r.name in self.rows or r.slug in self.rows)

    def runs(self) -> Iterator[tuple[Column, Row]]:
        """Yields the cells of the chosen rows that are run, by column, then row."""
        return ((column, row) for column, row in self.experiment.runs() if row in self.chosen)

    @property
    def pretrainings(self) -> list[str]:
        """Returns the names of the pre-trainings behind the chosen rows, each once."""
        used = {row.pretrain for _, row in self.runs()}
        return [name for name in self.experiment.pretrain if name in used]

    def pretraining_seeds(self, name: str) -> list[int | None]:
        """Returns the seeds of a pre-training for the chosen rows; None stands for the one that columns share."""
        columns = [column for column, row in self.runs() if row.pretrain == name]
        shared: list[int | None] = [None] if any(not column.anew for column in columns) else []
        return [*shared, *sorted({seed for column in columns if column.anew for seed in column.seeds})]

    def waves(self) -> Iterator[list[Chain]]:
        """Yields the waves in order: chains of one wave may run side by side, stages of a chain one by one.

        Ask for the next wave only after the one before has run, since its stages may depend on files.
        """
        for wave in self._waves():
            left = [tuple(stage for stage in chain if not self.only or stage.kind in self.only) for chain in wave]
            if chains := [chain for chain in left if chain]:
                yield chains

    def stages(self) -> Iterator[Stage]:
        """Yields all stages one after the other; see `waves`."""
        for wave in self.waves():
            for chain in wave:
                yield from chain

    def outline(self) -> list[Stage]:
        """Returns all stages quickly, with their names and folders but without the digests of their data."""
        return list(replace(self, listing=lambda spec: "").stages())

    def _waves(self) -> Iterator[list[Chain]]:
        e = self.experiment
        if e.generated is not None:
            yield [(self._data(),)]
        once = replace(self, listing=functools.cache(self.listing))
        alone, led = list[tuple[Column, Row]](), list[tuple[Column, Row]]()
        for column, row in self.runs():
            own = row.file is None and (row.pretrain is None or column.anew)
            (alone if own else led).append((column, row))
        yield [
            *self._trunks(),
            *self._files(),
            *(once.chain(column, row, seed) for column, row in alone for seed in column.seeds),
        ]
        yield [once.chain(column, row, seed) for column, row in led for seed in column.seeds]

    def _trunks(self) -> Iterator[Chain]:
        """Yields the pre-trainings that are made once, each with its conversion if something is fine-tuned from it."""
        for name in self.pretrainings:
            if None in self.pretraining_seeds(name):
                detected = any(row.pretrain == name and column.probe is None for column, row in self.runs())
                made = self._pretrain(name)
                yield (made, self._convert(folder_name(name), self.checkpoint(name))) if detected else (made,)

    def _files(self) -> Iterator[Chain]:
        """Yields the conversions of files that something is fine-tuned from."""
        for row in self.chosen:
            detected = any(row.job(column) is not None for column in self.experiment.columns)
            if detected and row.file is not None and needs_conversion(row.file):
                yield (self._convert(row.slug, row.file),)

    def chain(self, column: Column, row: Row, seed: int) -> Chain:
        """Returns the stages of one trial: a fine-tuning or a probe, after its own pre-training if made anew."""
        if column.probe is None:
            return (self.trial(column, row, seed),)
        probe = self.probe(column, row, seed)
        if row.pretrain is None or not column.anew:
            return (probe,)
        return (self._pretrain(row.pretrain, seed), probe)

    def trial(self, column: Column, row: Row, seed: int) -> Stage:
        """Returns the stage that trains and evaluates one seed of a row."""
        job, weights, folder = row.job(column), self.weights(row), self.row_folder(column, row)
        assert job is not None
        opts = [*job.opts, "MODEL.WEIGHTS", str(weights)] if weights is not None else list(job.opts)
        cfg = self.config(job.config, opts)
        scaled = [] if self.auto_scale is None else ["--auto-scale", str(self.auto_scale)]
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        specs = catalog.resolve(names, cfg.DATASETS.SPECS) if self.data_ready() else []
        return Stage(
            name=f"{column.prefix}fine-tune '{row.name}', seed {seed}",
            folder=trial_folder(folder, seed),
            command=self._tool(
                "run_trials.py", "--config-file", str(job.config), "--output-dir", str(folder),
                "--only-seed", str(seed), "--engine", self.engine.name, "--num-gpus", str(self.num_gpus),
                *scaled, *opts,
            ),
            inputs={
                "engine": self.engine.name,
                "config": digest(cfg),
                "weights": weights,
                "data": [self.listing(s) for s in specs if is_present(s)],
                "seed": seed,
            },
            outputs=(RESULT,),
            needs=self._made(weights),
        )  # fmt: skip

    def _made(self, weights: Path | None) -> tuple[Path, ...]:
        """Returns the files that earlier stages must have made for a fine-tuning."""
        made = [self.experiment.output / "data" / "manifest.json"] if self.experiment.generated is not None else []
        return (*made, weights) if weights is not None else tuple(made)

    def config(self, file: Path, opts: Sequence[str]) -> CfgNode:
        """Returns the config that a fine-tuning runs: the file with options, at the batch of `auto_scale`."""
        cfg = load_config(file, opts, self.engine.defaults())
        scaling = None if self.auto_scale is None else scale(cfg, self.auto_scale)
        return cfg if scaling is None else load_config(file, [*opts, *scaling.opts], self.engine.defaults())

    def probe(self, column: Column, row: Row, seed: int) -> Stage:
        """Returns the stage that classifies with one seed's trunk: a pre-training's, the row's file or a random one."""
        probe = row.entry(column).run
        assert isinstance(probe, Probe)
        source = self.source(column, row, seed) if row.pretrain is not None else row.file
        folder = trial_folder(self.row_folder(column, row), seed)
        inputs: dict[str, Any] = {"checkpoint": source, "opts": list(probe.opts)}
        inputs["data"] = {option: images(folder) for option, folder in probed_data(probe).items()}
        if probe.config is None:
            words = ["knn_eval.py", str(source), "--output-dir", str(folder), *probe.opts]
        else:
            inputs |= {"config": digest_of(load_yaml_with_base(probe.config)), "seed": seed}
            words = [_TRAINERS[probe.protocol], "--config-file", str(probe.config), "--resume", "auto", *probe.opts]
            words += [
                "MODEL.WEIGHTS",
                str(source or ""),
                "SEED",
                str(seed),
                "OUTPUT_DIR",
                str(folder),
            ]
        name = f"{column.prefix}{probe.protocol} of '{row.name}', seed {seed}"
        needs = () if source is None else (source,)
        return Stage(name, folder, self._processes(*words), inputs, (RESULT,), "trials", needs)

    def runner(self, column: Column) -> str:
        """Returns what evaluates the rows: an engine or a probe's protocol."""
        return column.probe or self.engine.name

    @property
    def detects(self) -> bool:
        """Returns whether anything is fine-tuned, so that results belong to an engine."""
        return any(column.probe is None for column in self.experiment.columns)

    def _data(self) -> Stage:
        e = self.experiment
        assert e.generated is not None
        flags: list[str] = []
        for key, value in e.generated.items():
            flags += [f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
        folder = e.output / "data"
        script = self.tools.parent / "datasets" / "prepare_generated.py"
        return Stage(
            "generate data",
            e.output / "stages" / "data",
            (sys.executable, str(script), "--root", str(folder), "--force", *flags),
            {"parameters": dict(e.generated)},
            ("../../data/manifest.json",),
            "data",
        )

    def _pretrain(self, name: str, seed: int | None = None) -> Stage:
        e, job = self.experiment, self.experiment.pretrain[name]
        folder = self.pretrain_folder(name, seed)
        seeded = () if seed is None else ("SEED", str(seed))
        data = e.output / "data" / "manifest.json"
        return Stage(
            f"pre-train '{name}'" + (f", seed {seed}" if seed is not None else ""),
            folder,
            self._processes(
                "train_moco.py", "--config-file", str(job.config), "--resume", "auto", *job.opts, *seeded,
                "OUTPUT_DIR", str(folder),
            ),
            {
                "config": digest_of([load_yaml_with_base(job.config), [*job.opts, *seeded]]),
                "data": data if e.generated is not None else images(pretraining_data(job.config, job.opts)),
            },
            (PRETRAINED, RESULT),
            "pretrain",
            (data,) if e.generated is not None else (),
        )  # fmt: skip

    def _convert(self, name: str, source: Path) -> Stage:
        folder = self.converted(name)
        return Stage(
            f"convert '{name}'",
            folder,
            self._tool("convert-pretrain-to-detectron2.py", str(source), str(folder / TRUNK)),
            {"source": source},
            (TRUNK, TRUNK + ".json"),
            "convert",
            (source,),
        )

    def _tool(self, script: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, str(self.tools / script), *words)

    def _processes(self, script: str, *words: str) -> tuple[str, ...]:
        """Returns the command that runs a tool in as many processes as there are GPUs, under torchrun."""
        if self.num_gpus == 1:
            return self._tool(script, *words)
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.num_gpus))
        return (sys.executable, *torchrun, str(self.tools / script), *words)
