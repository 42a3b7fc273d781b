"""What a dry run says: the plan, its commands, what the papers say it costs, and what is missing on a bare machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from transfer.config.load import load_config
from transfer.data.missing import Missing
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.trials.describe import costs, describe, problems
from transfer.trials.experiment import load_experiment
from transfer.trials.jobs import Outcome
from transfer.trials.plan import Plan
from transfer.trials.preflight import missing, refused

EXPERIMENTS = ROOT / "configs" / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.yaml"))


def plan(name: str, out: Path, trials: int | None = None, **fields) -> Plan:
    return Plan(
        load_experiment(EXPERIMENTS / f"{name}.yaml", out, trials), TorchvisionEngine(), ROOT / "tools", **fields
    )


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No data set, no weights: neither beside the working directory nor in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.delenv("IMAGENET", raising=False)
    monkeypatch.delenv("INATURALIST", raising=False)


LABELLED = {"inaturalist": {"$INATURALIST/train2018.json", "$INATURALIST/val2018.json"}}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_every_experiment_says_what_a_bare_machine_lacks(name, tmp_path):
    """Exactly: the weights files, the data of its configs unless it makes them, and what an engine or a task lacks."""
    p = plan(name, tmp_path / "out", trials=1)
    e = p.experiment
    files = {str(row.file) for row in e.rows if row.file is not None}
    found = missing(p)
    sets: set[str] = set()
    parts: list[Missing] = []
    for column, row in e.runs():
        if column.probe is not None:
            sets |= LABELLED.get(name, {"$IMAGENET/train", "$IMAGENET/val"})
        else:
            cfg = load_config(row.job(column).config)
            sets |= {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
            parts += p.engine.missing(cfg)
    assert bool(parts) == (name == "table6") and set(parts) <= set(found)
    told = {m.what.split("'")[1] for m in found if m not in parts}
    assert told == (files if e.generated is not None else sets | files)
    assert bool(refused(p)) == (name == "table6")  # for what its engine lacks
    assert all(m.remedy for m in found)
    text = describe(p)
    assert f"missing: {len(found)}" in text if found else "nothing is missing" in text
    assert text.count("[new]") == len(list(p.stages())) and "estimated cost" in text
    assert not (tmp_path / "out").exists()


def test_densepose_is_missing_an_engine_and_its_files(tmp_path):
    """Once, with the command for each; other tables do not ask for it."""
    found = missing(plan("table6", tmp_path / "out", trials=1))
    engine, files = (m for m in found if "an engine for" in m.what or "DensePose's files" in m.what)
    assert "the torchvision engine does not do" in engine.what and "`make detectron2 densepose`" in engine.remedy
    assert "Pdist_matrix.pkl" in files.what and files.remedy.startswith(f"wget -P {tmp_path}/datasets/densepose http")
    assert not any("ensePose" in m.what for m in missing(plan("table2", tmp_path / "out", trials=1)))


def test_costs_are_those_that_the_papers_state(tmp_path):
    lines = costs(plan("mocov2_table1", tmp_path))
    assert lines[0] == "estimated cost: 3,816 GPU-hours and 13 parts not published"  # (5 + 4) * 53 * 8
    assert "  pre-train 'v1' x 1: 424 GPU-hours (about 53 h on 8 V100)" in lines
    assert "  ImageNet: linear probe of 'MoCo v1' x 1: not published" in lines
    assert "  VOC: fine-tune 'MoCo v1' x 5: not published" in lines
    assert costs(plan("table4", tmp_path))[0] == "estimated cost: not published"
    ig = next(m for m in missing(plan("table4", tmp_path)) if "moco_ig1b" in m.what)
    assert "9,216 GPU-hours (about 6 days on 64 V100)" in str(ig)


def test_rows_stages_and_trials_can_be_chosen(tmp_path):
    p = plan("table4", tmp_path, trials=2, rows=("MoCo IN-1M", "supervised-in-1m"))
    assert [s.name for s in p.stages()] == [
        "convert 'moco-in-1m'", "fine-tune 'supervised IN-1M', seed 1", "fine-tune 'supervised IN-1M', seed 2",
        "fine-tune 'MoCo IN-1M', seed 1", "fine-tune 'MoCo IN-1M', seed 2",
    ]  # fmt: skip
    assert "moco_ig1b" not in "".join(map(str, missing(p)))
    p = plan("demo", tmp_path, rows=("moco-v2",), only=("data", "pretrain"))
    assert [s.kind for s in p.stages()] == ["data", "pretrain"]
    with pytest.raises(
        ConfigError, match="no row is called 'MoCo v3'; rows are 'random-init', 'supervised', 'moco-v2'"
    ):
        plan("demo", tmp_path, rows=("MoCo v3",))
    with pytest.raises(ConfigError, match="stages are data, pretrain, convert, trials"):
        plan("demo", tmp_path, only=("report",))


def test_chains_of_a_wave_are_independent(tmp_path):
    """A probe follows its own pre-training; trials wait for all trunks, but those from random weights for none."""
    waves = list(plan("moco_momentum", tmp_path, trials=2).waves())
    assert [len(wave) for wave in waves] == [10]
    assert all(probe.needs == (pre.folder / "checkpoint_last.pth.tar",) for pre, probe in waves[0])
    waves = list(plan("demo", tmp_path, trials=2).waves())
    assert [[stage.kind for chain in wave for stage in chain] for wave in waves] == [
        ["data"], ["pretrain", "convert"] * 2 + ["trials"] * 2, ["trials"] * 4,
    ]  # fmt: skip
    assert len(waves[1]) == 4 and len(waves[2]) == 4
    assert all("random" in chain[0].name for chain in waves[1][2:])


def test_problems_are_told_once(tmp_path):
    lines = problems(
        [
            Outcome("a", tmp_path, "done"),
            Outcome("b", tmp_path, "failed", "exit code 1"),
            Outcome("e", tmp_path, "failed", "e ended with exit code 2"),
            Outcome("c", tmp_path, "blocked", "'w' was not made"),
            Outcome("d", tmp_path, "blocked", "'w' was not made"),
        ]
    )
    assert lines == ["b: exit code 1", "e ended with exit code 2", "c and 1 more not run: 'w' was not made"]


def test_shards_are_there_if_every_one_is(tmp_path):
    """`DATA.TRAIN` of an experiment takes what a pre-training by hand takes."""
    (tmp_path / "shards").mkdir()
    file = tmp_path / "e.yaml"

    def told(train: str) -> list[str]:
        tiny = str(ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")
        content = {
            "title": "T", "output": str(tmp_path / "out"), "trials": 1, "metrics": ["knn/acc1"],
            "pretrain": {"moco": {"config": tiny, "opts": ["DATA.TRAIN", train]}},
            "probe": {"protocol": "knn", "opts": ["--train", str(tmp_path), "--val", str(tmp_path)]},
            "rows": [{"name": "MoCo", "weights": {"pretrain": "moco"}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(content))
        return [m.what for m in missing(Plan(load_experiment(file), TorchvisionEngine(), ROOT / "tools"))]

    (tmp_path / "shards" / "in-000.tar").touch()
    ranged, starred = str(tmp_path / "shards" / "in-{000..001}.tar"), str(tmp_path / "shards" / "*.tar")
    assert told(starred) == [] and told(ranged) == [f"pre-training images '{ranged}' of 'moco'"]
    (tmp_path / "shards" / "in-001.tar").touch()
    assert told(ranged) == []


def test_a_dry_run_shows_what_is_stale_or_unreadable_and_counts_it(tmp_path):
    p = plan("mocov2_table1", tmp_path / "out", trials=1)
    first, second, *_ = p.stages()
    for stage in (first, second):
        stage.folder.mkdir(parents=True)
    (first.folder / "stage.json").write_text('{"inputs": {"of": "before"}, "outputs": {}}')
    (second.folder / "stage.json").write_text("{")
    for name in first.outputs:
        (first.folder / name).write_text("{}")
    text = describe(p)
    assert f"1. {first.name} [stale]" in text and f"2. {second.name} ['{second.folder}" in text
    assert f"on this machine: {len(list(p.stages()))} stages left" in text
