"""A YAML file that is given to the wrong command: which one takes it is said, whatever the two are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pretrain.config import get_cfg
from pretrain.probes.config import get_lincls_cfg, load_lincls
from pretrain.runtime.config import ConfigError, load, load_yaml_with_base
from pretrain.runtime.config_kinds import CLASSIFIER, DATA_SETS, EXPERIMENT, KINDS, PRETRAINING, TRANSFER, kind_of
from tests.conftest import ROOT
from transfer.config.defaults import get_cfg as get_transfer_cfg
from transfer.config.load import load_config
from transfer.data.catalog import read_spec_file
from transfer.trials.experiment import load_experiment

CONFIGS = ROOT / "configs"
FILES = {
    EXPERIMENT: "experiments/table2.yaml",
    PRETRAINING: "pretrain/moco_v2_R_50_200ep.yaml",
    CLASSIFIER: "pretrain/finetune_R_50_inaturalist.yaml",
    TRANSFER: "transfer/voc/faster_rcnn_R_50_C4_24k_moco.yaml",
}
READERS = {
    EXPERIMENT: load_experiment,
    DATA_SETS: read_spec_file,
    PRETRAINING: lambda path: load(get_cfg(), path),
    CLASSIFIER: lambda path: load_lincls(path, [], "free"),
    TRANSFER: load_config,
}
KIND_OF_NAME = {"experiments": EXPERIMENT, "transfer": TRANSFER}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_is_known(path: Path) -> None:
    folder = path.relative_to(CONFIGS).parts[0]
    probes = path.stem.startswith(("lincls", "finetune"))
    assert kind_of(load_yaml_with_base(path)) is KIND_OF_NAME.get(folder, CLASSIFIER if probes else PRETRAINING)


def test_a_mark_is_in_one_tree_alone() -> None:
    trees = {PRETRAINING: get_cfg(), CLASSIFIER: get_lincls_cfg(), TRANSFER: get_transfer_cfg()}
    for kind in KINDS:
        for mark in kind.marks:
            top, *rest = mark.split(".")
            having = [of for of, tree in trees.items() if top in tree and (not rest or rest[0] in tree[top])]
            assert having == [kind] * (kind in trees), mark
    assert all(kind_of(tree) is kind for kind, tree in trees.items())
    assert kind_of({}) is kind_of({"MODEL": None, "SEED": 1}) is kind_of({"KNN": {}}) is None


@pytest.mark.parametrize("reader", KINDS, ids=lambda kind: kind.name.split()[-1])
def test_the_right_command_is_named(reader, tmp_path: Path) -> None:
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"format": "voc", "root": ".", "splits": ["a"]}))
    files = {kind: CONFIGS / name for kind, name in FILES.items()} | {DATA_SETS: tmp_path / "sets.yaml"}
    for kind, file in files.items():
        if kind is not reader:
            said = f"^'{re.escape(str(file))}' is {kind.name}, for {kind.takers}; this command takes {reader.name}$"
            with pytest.raises(ConfigError, match=said):
                READERS[reader](file)


def test_a_stray_key_is_no_other_kind(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"_BASE_: {CONFIGS / FILES[TRANSFER]}\nAUG: {{TRAIN: True}}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: unknown key 'AUG"):
        load_config(file)
