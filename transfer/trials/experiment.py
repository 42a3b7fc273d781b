"""An experiment file: rows of a table as data. Parsed and checked whole before anything runs.

    title: MoCo, Table 2(b)
    source: where the published numbers stand
    output: work/table2b            # where everything goes; --output-dir overrides it
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

Instead of `transfer`, an experiment may evaluate the representation itself; every seed then pre-trains anew:

    probe: {protocol: knn, opts: [--train, "{data}/iconic/train", --val, "{data}/iconic/val"]}
    probe: {protocol: linear, config: ../pretrain/lincls_R_50.yaml, opts: [DATA.TRAIN, imagenet/train, DATA.VAL, ...]}
    rows: [{name: m = 0, weights: {pretrain: m0}, published: {linear/acc1: 59.0}}, ...]

Paths of configs are relative to the file; `{data}` in an option stands for `<output>/data`. What a paper says a
pre-training, a fine-tuning or the making of a file's weights costs stands beside it, for one trial:

    cost: {gpu_hours: 424, source: "53 h on 8 V100, MoCo"}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain.runtime.config import ConfigError, check_known, load_yaml


@dataclass(frozen=True)
class Cost:
    """What one run of something takes, in GPU-hours, and who says so."""

    gpu_hours: float
    source: str

    def __str__(self) -> str:
        return f"{self.gpu_hours:,.0f} GPU-hours ({self.source})"


@dataclass(frozen=True)
class Job:
    """A config with options: something to pre-train, or to fine-tune. `cost`: as published, of one run."""

    config: Path
    opts: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True)
class Probe:
    """An evaluation of pre-trained features: knn with options of tools/knn_eval.py, linear with a config and its keys.

    Attributes:
        config: of the linear protocol; None for knn.
    """

    protocol: str
    opts: tuple[str, ...]
    config: Path | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table. At most one of `pretrain` and `file` is set; neither means random initialisation.

    Attributes:
        job: what is fine-tuned; of a probed row its pre-training, None with `file`.
        pretrain: name of the experiment's pre-training whose trunk initialises this row.
        file: a checkpoint on disk, converted if it is not in Detectron2's form.
        get: where to get `file`, for people.
        sha256: of `file`, lower-case hex: all 64 digits or the first 8 and more; empty if it is not known.
        cost: of making `file` anew.
    """

    name: str
    job: Job | None
    pretrain: str | None = None
    file: Path | None = None
    get: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    sha256: str = ""

    @property
    def slug(self) -> str:
        """The row's folder name."""
        words = "".join(c if c.isalnum() else " " for c in self.name.lower()).split()
        return "-".join(words)


@dataclass(frozen=True)
class Experiment:
    """See the module's docstring."""

    path: Path
    title: str
    source: str
    output: Path
    trials: int
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    pretrain: Mapping[str, Job]
    generated: Mapping[str, Any] | None
    probe: Probe | None = None

    @property
    def seeds(self) -> range:
        return range(1, self.trials + 1)


PROTOCOLS = ("knn", "linear")
_TOP = {"title", "source", "output", "trials", "metrics", "data", "pretrain", "transfer", "probe", "rows"}


def load_experiment(
    path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, trials: int | None = None
) -> Experiment:
    """Reads an experiment file.

    Args:
        output: overrides the file's own output folder.
        trials: overrides the file's own number of trials.

    Raises:
        ConfigError: unknown or missing keys, a config that does not exist, a row that names an unknown pre-training,
            two rows of one name.
    """
    path = Path(path)
    data = load_yaml(path)
    _keys(data, _TOP, {"title", "rows"}, str(path))
    if ("transfer" in data) == ("probe" in data):
        raise ConfigError(f"{path}: give either `transfer` or `probe`")
    out = Path(output if output is not None else data.get("output", f"work/{path.stem}"))
    generated = None
    if "data" in data:
        _keys(data["data"], {"generated"}, {"generated"}, f"{path}: data")
        generated = data["data"]["generated"] or {}
    pretrain = {name: _job(path, value, f"pretrain.{name}", out) for name, value in data.get("pretrain", {}).items()}
    probe = None
    if "probe" in data:
        probe = _probe(path, data["probe"], out)
        rows = tuple(_probed_row(path, value, pretrain) for value in data["rows"])
    else:
        common = _job(path, data["transfer"], "transfer", out)
        rows = tuple(_row(path, value, common, pretrain, out) for value in data["rows"])
    slugs = [row.slug for row in rows]
    if not rows or len(set(slugs)) < len(slugs):
        raise ConfigError(f"{path}: rows need names that differ: {', '.join(row.name for row in rows) or 'no rows'}")
    trials = data.get("trials", 5) if trials is None else trials
    if not isinstance(trials, int) or trials < 1:
        raise ConfigError(f"{path}: trials is {trials!r}; give a number from 1 on")
    metrics = tuple(data.get("metrics", ("AP50", "AP", "AP75")))
    source = data.get("source", "")
    return Experiment(path, data["title"], source, out, trials, metrics, rows, pretrain, generated, probe)


def _probe(path: Path, data: Any, out: Path) -> Probe:
    where = f"{path}: probe"
    _keys(data, {"protocol", "config", "opts"}, {"protocol"}, where)
    protocol = data["protocol"]
    if protocol not in PROTOCOLS:
        raise ConfigError(f"{where}.protocol is {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if (protocol == "linear") != ("config" in data):
        raise ConfigError(f"{where}: the linear protocol needs a config, knn has none")
    if protocol == "linear":
        job = _job(path, {"config": data["config"], "opts": data.get("opts", [])}, "probe", out)
        return Probe(protocol, job.opts, job.config)
    return Probe(protocol, _opts(data.get("opts", []), where, out))


def _probed_row(path: Path, data: Any, pretrain: Mapping[str, Job]) -> Row:
    _keys(data, {"name", "weights", "published"}, {"name", "weights"}, f"{path}: rows")
    where, published = f"{path}: row '{data['name']}'", dict(data.get("published") or {})
    if data["weights"] is None:
        raise ConfigError(f"{where}: a probe needs weights; name a pre-training or a file")
    weights = _weights(where, data["weights"], pretrain)
    job = pretrain[weights.pretrain] if weights.pretrain is not None else None
    return Row(data["name"], job, published=published, **vars(weights))


def _row(path: Path, data: Any, common: Job, pretrain: Mapping[str, Job], out: Path) -> Row:
    _keys(data, {"name", "weights", "published", "config", "opts"}, {"name", "weights"}, f"{path}: rows")
    where = f"{path}: row '{data['name']}'"
    job = common
    if "config" in data:
        job = replace(_job(path, {"config": data["config"]}, where, out), opts=common.opts, cost=common.cost)
    job = replace(job, opts=(*job.opts, *_opts(data.get("opts", []), where, out)))
    published = dict(data.get("published") or {})
    if data["weights"] is None:
        return Row(data["name"], job, published=published)
    return Row(data["name"], job, published=published, **vars(_weights(where, data["weights"], pretrain)))


@dataclass(frozen=True)
class _Weights:
    """What a row's `weights` say; the names are those of `Row`."""

    pretrain: str | None = None
    file: Path | None = None
    get: str = ""
    cost: Cost | None = None
    sha256: str = ""


def _weights(where: str, data: Any, pretrain: Mapping[str, Job]) -> _Weights:
    _keys(data, {"pretrain", "file", "get", "cost", "sha256"}, set(), f"{where}: weights")
    if ("pretrain" in data) == ("file" in data):
        raise ConfigError(f"{where}: weights need either `pretrain` or `file`")
    if "file" in data:
        file = Path(os.path.expandvars(os.path.expanduser(data["file"])))
        cost = _cost(data.get("cost"), f"{where}: weights")
        return _Weights(None, file, data.get("get", ""), cost, _sha256(data.get("sha256", ""), f"{where}: weights"))
    if data["pretrain"] not in pretrain:
        known = ", ".join(pretrain) or "none is defined"
        raise ConfigError(f"{where}: no pre-training is called '{data['pretrain']}' ({known})")
    if "cost" in data:
        raise ConfigError(f"{where}: weights: the cost stands with the pre-training '{data['pretrain']}'")
    if "sha256" in data:
        raise ConfigError(f"{where}: weights: sha256 is of a `file`; a pre-training's checkpoint is made here")
    return _Weights(pretrain=data["pretrain"])


def _sha256(data: Any, where: str) -> str:
    if data != "" and not (isinstance(data, str) and re.fullmatch("[0-9a-f]{8,64}", data)):
        raise ConfigError(
            f"{where}: sha256 is {data!r}; give the file's SHA-256 in lower-case hex, or its first 8 digits or more, "
            "in quotation marks"
        )
    return data


def _cost(data: Any, where: str) -> Cost | None:
    if data is None:
        return None
    _keys(data, {"gpu_hours", "source"}, {"gpu_hours", "source"}, f"{where}: cost")
    hours = data["gpu_hours"]
    if isinstance(hours, bool) or not isinstance(hours, (int, float)) or not hours > 0:
        raise ConfigError(f"{where}: cost.gpu_hours is {hours!r}; give a number of hours above 0")
    return Cost(float(hours), str(data["source"]))


def _job(path: Path, data: Any, where: str, out: Path) -> Job:
    _keys(data, {"config", "opts", "cost"}, {"config"}, f"{path}: {where}")
    config = Path(os.path.normpath(path.parent / data["config"]))
    if not config.is_file():
        raise ConfigError(f"{path}: {where} names config '{data['config']}', but '{config}' does not exist")
    return Job(config, _opts(data.get("opts", []), f"{path}: {where}", out), _cost(data.get("cost"), where))


def _opts(opts: Any, where: str, out: Path) -> tuple[str, ...]:
    if not isinstance(opts, Sequence) or isinstance(opts, str) or len(opts) % 2:
        raise ConfigError(f"{where}: opts must be a list KEY, VALUE, KEY, VALUE, ...")
    return tuple(str(word).replace("{data}", str(out / "data")) for word in opts)


def _keys(data: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected keys {', '.join(sorted(known))}, found {data!r}")
    for key in data:
        check_known(str(key), known, where)
    if missing := sorted(needed - set(data)):
        raise ConfigError(f"{where}: '{missing[0]}' is missing")
