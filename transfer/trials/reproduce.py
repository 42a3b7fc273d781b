"""From an experiment file to its table: data -> pre-training -> conversion -> trials per row -> report.

Each stage is one command that also works by itself. Pre-training and transfer meet only in files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint
from pretrain.runtime.config import ConfigError, load_yaml_with_base
from pretrain.runtime.provenance import digest as digest_of
from transfer.config.load import digest, load_config
from transfer.config.scale import scale
from transfer.data import catalog
from transfer.engines.base import Engine
from transfer.trials.experiment import Experiment, Row
from transfer.trials.run import AGGREGATE_FILE, trial_folder
from transfer.trials.stages import Stage

PRETRAINED = "checkpoint_last.pth.tar"
TRUNK = "trunk.pkl"
PENDING = "(known once the stage before it is done)"


@dataclass(frozen=True)
class Missing:
    """Something that the experiment needs and this machine lacks."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"  - {self.what}" + (f": {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Plan:
    """How to run an experiment here.

    Attributes:
        tools: folder of the command-line tools.
        num_gpus: processes of each training, one per GPU.
        auto_scale: images per batch of the fine-tunings, whose rate and schedule follow (see `config.scale`).
    """

    experiment: Experiment
    engine: Engine
    tools: Path
    num_gpus: int = 1
    auto_scale: int | None = None

    def stages(self) -> Iterator[Stage]:
        """All stages in order. Ask for the next one only when the one before has run: its inputs may depend on it."""
        e = self.experiment
        if e.generated is not None:
            yield self._data()
        if e.probe is not None:
            for row in e.rows:
                for seed in e.seeds:
                    if row.pretrain is not None:
                        yield self._pretrain(row.pretrain, seed)
                    yield self.probe(row, seed)
            return
        for name in e.pretrain:
            if any(row.pretrain == name for row in e.rows):
                yield self._pretrain(name)
                yield self._convert(name, self._checkpoint(name))
        for row in e.rows:
            if row.file is not None and _needs_conversion(row.file):
                yield self._convert(row.slug, row.file)
        for row in e.rows:
            yield self.trials(row)

    def missing(self) -> list[Missing]:
        """Data sets and weights that are not here, each once."""
        found: dict[str, Missing] = {}
        for row in self.experiment.rows:
            if row.file is not None and not row.file.is_file():
                found.setdefault(str(row.file), Missing(f"weights '{row.file}' of row '{row.name}'", row.get))
            if self.experiment.generated is not None or self.experiment.probe is not None:
                continue
            assert row.job is not None
            cfg = load_config(row.job.config, row.job.opts, self.engine.defaults())
            for spec in catalog.resolve((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), cfg.DATASETS.SPECS):
                if not _present(spec):
                    found.setdefault(
                        spec.name,
                        Missing(
                            f"data set '{spec.name}' ({spec.json_file or spec.root})",
                            "see datasets/README.md; $DETECTRON2_DATASETS names the folder that holds the data sets",
                        ),
                    )
        for name, job in self.experiment.pretrain.items():
            needed = any(row.pretrain == name for row in self.experiment.rows)
            folder = _pretraining_data(job.config, job.opts)
            if needed and self.experiment.generated is None and not _exists(folder):
                found.setdefault(
                    str(folder),
                    Missing(f"pre-training images '{folder}' of '{name}'", "give DATA.TRAIN a folder of images"),
                )
        for option, folder in self._probed_data().items():
            if self.experiment.generated is None and not _exists(folder):
                remedy = f"give {option} of the probe a folder that holds a folder of images per class"
                found.setdefault(str(folder), Missing(f"labelled images '{folder}'", remedy))
        return list(found.values())

    def trials(self, row: Row) -> Stage:
        """The stage that trains and evaluates every seed of a row."""
        e = self.experiment
        assert row.job is not None
        weights = self._weights(row)
        opts = [*row.job.opts, "MODEL.WEIGHTS", str(weights)] if weights is not None else list(row.job.opts)
        cfg = self.config(row.job.config, opts)
        scaled = [] if self.auto_scale is None else ["--auto-scale", str(self.auto_scale)]
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        specs = catalog.resolve(names, cfg.DATASETS.SPECS) if self._data_ready() else []
        folder = self.row_folder(row)
        return Stage(
            name=f"fine-tune '{row.name}', {e.trials} trials",
            folder=folder,
            command=self._tool(
                "run_trials.py", "--config-file", str(row.job.config), "--output-dir", str(folder),
                "--trials", str(e.trials), "--engine", self.engine.name, "--num-gpus", str(self.num_gpus),
                *scaled, *opts,
            ),
            inputs={
                "engine": self.engine.name,
                "config": digest(cfg),
                "weights": None if weights is None else _hash(weights),
                "data": [catalog.listing_digest(s) for s in specs if _present(s)],
                "seeds": list(e.seeds),
            },
            outputs=(AGGREGATE_FILE,),
        )  # fmt: skip

    def config(self, file: Path, opts: Sequence[str]) -> CfgNode:
        """What a fine-tuning runs: the file with options, at the batch of `auto_scale`."""
        cfg = load_config(file, opts, self.engine.defaults())
        scaling = None if self.auto_scale is None else scale(cfg, self.auto_scale)
        return cfg if scaling is None else load_config(file, [*opts, *scaling.opts], self.engine.defaults())

    def probe(self, row: Row, seed: int) -> Stage:
        """The stage that evaluates one seed's features: of its own pre-training, or of the row's file."""
        probe = self.experiment.probe
        assert probe is not None
        source = row.file if row.file is not None else self._checkpoint(str(row.pretrain), seed)
        folder = trial_folder(self.row_folder(row), seed)
        inputs: dict[str, Any] = {"checkpoint": _hash(source), "opts": list(probe.opts)}
        if probe.config is None:
            words = ["knn_eval.py", str(source), "--output-dir", str(folder), *probe.opts]
        else:
            inputs |= {"config": digest_of(load_yaml_with_base(probe.config)), "seed": seed}
            words = ["linear_eval.py", "--config-file", str(probe.config), "--resume", "auto", *probe.opts]
            words += ["MODEL.WEIGHTS", str(source), "SEED", str(seed), "OUTPUT_DIR", str(folder)]
        name = f"{probe.protocol} of '{row.name}', seed {seed}"
        return Stage(name, folder, self._processes(*words), inputs, ("result.json",))

    def _probed_data(self) -> dict[str, str | None]:
        """Option or key -> folder of labelled images that the probe reads."""
        probe = self.experiment.probe
        if probe is None:
            return {}
        given = dict(zip(probe.opts[::2], probe.opts[1::2], strict=True))
        if probe.config is None:
            return {name: given.get(name) for name in ("--train", "--val")}
        data = load_yaml_with_base(probe.config).get("DATA", {})
        return {f"DATA.{name}": given.get(f"DATA.{name}", data.get(name)) for name in ("TRAIN", "VAL")}

    @property
    def runner(self) -> str:
        """What evaluates the rows: an engine, or a probe's protocol."""
        return self.engine.name if self.experiment.probe is None else self.experiment.probe.protocol

    def row_folder(self, row: Row) -> Path:
        """Trials of different engines never share a folder."""
        return self.experiment.output / "rows" / self.runner / row.slug

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
            (sys.executable, str(script), "--root", str(folder), *flags),
            {"parameters": dict(e.generated)},
            ("../../data/manifest.json",),
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
                "data": _hash(data) if e.generated is not None else _pretraining_data(job.config, job.opts),
            },
            (PRETRAINED, "result.json"),
        )  # fmt: skip

    def _convert(self, name: str, source: Path) -> Stage:
        folder = self.experiment.output / "converted" / name
        return Stage(
            f"convert '{name}'",
            folder,
            self._tool("convert-pretrain-to-detectron2.py", str(source), str(folder / TRUNK)),
            {"source": _hash(source)},
            (TRUNK, TRUNK + ".json"),
        )

    def pretrain_folder(self, name: str, seed: int | None = None) -> Path:
        """Where a pre-training works; with a seed, one of a probed row."""
        folder = self.experiment.output / "pretrain" / name
        return folder if seed is None else trial_folder(folder, seed)

    def _checkpoint(self, name: str, seed: int | None = None) -> Path:
        return self.pretrain_folder(name, seed) / PRETRAINED

    def _weights(self, row: Row) -> Path | None:
        if row.pretrain is not None:
            return self.experiment.output / "converted" / row.pretrain / TRUNK
        if row.file is not None and _needs_conversion(row.file):
            return self.experiment.output / "converted" / row.slug / TRUNK
        return row.file

    def _data_ready(self) -> bool:
        e = self.experiment
        return e.generated is None or (e.output / "data" / "manifest.json").is_file()

    def _tool(self, script: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, str(self.tools / script), *words)

    def _processes(self, script: str, *words: str) -> tuple[str, ...]:
        """A tool that is to run in as many processes as there are GPUs, under torchrun."""
        if self.num_gpus == 1:
            return self._tool(script, *words)
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.num_gpus))
        return (sys.executable, *torchrun, str(self.tools / script), *words)


def describe(plan: Plan) -> str:
    """The plan as text: stages with their state and command, then what is missing."""
    e = plan.experiment
    lines = [f"{e.title}: {len(e.rows)} rows x {e.trials} trials on {plan.runner}, into {e.output}", ""]
    for n, stage in enumerate(plan.stages(), 1):
        lines.append(f"{n}. {stage.name} [{stage.state()}]")
        lines.append(f"   {stage.shell}")
    missing = plan.missing()
    lines.append("")
    lines.append(f"missing: {len(missing)}" if missing else "nothing is missing")
    lines += map(str, missing)
    return "\n".join(lines)


def run(plan: Plan) -> None:
    """Runs every stage that is not done.

    Raises:
        ConfigError: something is missing (all of it is listed).
        StageError: a stage failed; run again to continue.
    """
    missing = plan.missing()
    if missing:
        raise ConfigError("cannot run yet, missing:\n" + "\n".join(map(str, missing)))
    for stage in plan.stages():
        stage.run()


def _hash(path: Path) -> str:
    return checkpoint.sha256(path)[:16] if path.is_file() else PENDING


def _exists(path: str | None) -> bool:
    return path is not None and Path(os.path.expandvars(os.path.expanduser(path))).exists()


def _needs_conversion(file: Path) -> bool:
    """Whether the converter must see the file first: all but what is written for Detectron2 by its extension."""
    return file.suffix != ".pkl"


def _present(spec: catalog.DatasetSpec) -> bool:
    if spec.format == "coco":
        return bool(spec.json_file and spec.json_file.is_file() and spec.image_root and spec.image_root.is_dir())
    return (spec.root / "ImageSets" / "Main" / f"{spec.split}.txt").is_file()


def _pretraining_data(config: Path, opts: Sequence[str]) -> str | None:
    """DATA.TRAIN of a pre-training config; read as YAML, since transfer knows nothing of the other half's defaults."""
    given = dict(zip(opts[::2], opts[1::2], strict=True))
    return given.get("DATA.TRAIN") or load_yaml_with_base(config).get("DATA", {}).get("TRAIN")
