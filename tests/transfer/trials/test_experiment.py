"""Experiment files: every one of the project parses; mistakes are named before anything runs."""

from __future__ import annotations

import pytest

from pretrain.config import check, get_cfg
from pretrain.runtime.config import ConfigError, merge_file, merge_opts
from tests.conftest import ROOT
from transfer.trials.experiment import load_experiment
from transfer.trials.reproduce import PRETRAINED, Plan

FILES = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))

GOOD = """
title: t
transfer: {{config: {config}, opts: [SEED, 1]}}
pretrain: {{a: {{config: {config}, opts: [DATA.TRAIN, "{{data}}/x"]}}}}
rows:
  - {{name: Random init., weights: null, published: {{AP50: 60.2}}}}
  - {{name: ours, weights: {{pretrain: a}}, opts: [MODEL.DEVICE, cpu]}}
"""


def write(tmp_path, config, edit=lambda text: text):
    path = tmp_path / "e.yaml"
    path.write_text(edit(GOOD.format(config=config)))
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_of_the_project(path):
    experiment = load_experiment(path)
    probed = 2 if path.stem.startswith("small_") else 1
    assert experiment.title and experiment.rows and experiment.trials == (5 if experiment.probe is None else probed)
    assert all(set(row.published) <= set(experiment.metrics) for row in experiment.rows)


def test_table_2b_says_what_the_paper_says():
    rows = {row.name: row for row in load_experiment(ROOT / "configs/experiments/table2b.yaml").rows}
    assert rows["random init."].published == {"AP50": 60.2, "AP": 33.8, "AP75": 33.1}
    assert rows["supervised IN-1M"].published == {"AP50": 81.3, "AP": 53.5, "AP75": 58.8}
    assert rows["MoCo IN-1M"].published == {"AP50": 81.5, "AP": 55.9, "AP75": 62.6}
    assert rows["MoCo IG-1B"].published == {"AP50": 82.2, "AP": 57.2, "AP75": 63.7}
    assert rows["supervised IN-1M (torchvision, ours)"].published == {}
    assert rows["supervised IN-1M"].job.config.name == "faster_rcnn_R_50_C4_24k.yaml"
    assert rows["MoCo IN-1M"].job.config.name == "faster_rcnn_R_50_C4_24k_moco.yaml"


PUBLISHED = {
    "moco_momentum": [None, 55.2, 57.8, 59.0, 58.9],
    "moco_shuffle_bn": [None, None],
    "moco_mechanisms": [None] * 3 + [59.0, None, 60.6] + [None] * 3 + [58.0, 54.3] + [None] * 3,
    "mocov2_temperature": [60.6, 60.7, 59.0, 58.2, 57.2, 56.4, 62.9, 64.9, 66.2, 65.7, 65.0, 64.3],
    "mocov2_table1_linear": [60.6, 66.2, 63.4, 67.3, 67.5, 71.1],
    "moco_table1": [60.6, 63.9, 65.4, 68.6],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_ablations_say_what_the_papers_say(name):
    """The published number of every row, and a pre-training that differs from its base in what the row says only."""
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{name}.yaml")
    assert [row.published.get("linear/acc1") for row in experiment.rows] == PUBLISHED[name]
    for row in experiment.rows:
        cfg = get_cfg()
        merge_file(cfg, row.job.config)
        merge_opts(cfg, row.job.opts)
        check(cfg, world_size=8)
        words = row.name.replace(",", "").split()
        for letter, key in (("m", cfg.MODEL.M), ("K", cfg.MODEL.K), ("T", cfg.MODEL.T)):
            if letter in words:
                assert float(words[words.index(letter) + 2]) == key
        if "MLP" in words:
            assert cfg.MODEL.MLP == ("without" not in words)
        if name.startswith("mocov2_table1"):
            assert cfg.AUG.RECIPE == ("v2" if {"aug+", "epochs"} & set(words) else "v1")


def test_detection_columns_start_from_the_pretrainings_of_the_linear_column():
    """The files that rows of one experiment name are those that the other experiment's stages leave."""
    folder = ROOT / "configs" / "experiments"
    linear = Plan(load_experiment(folder / "mocov2_table1_linear.yaml"), engine=None, tools=ROOT / "tools")
    made = {linear.pretrain_folder(name, 1) / PRETRAINED for name in linear.experiment.pretrain}
    voc = load_experiment(folder / "mocov2_table1_voc.yaml")
    assert made == {row.file for row in voc.rows if row.name != "supervised"}
    assert [list(row.published.values()) for row in voc.rows] == [
        [81.3, 53.5, 58.8], [81.5, 55.9, 62.6], [82.0, 56.4, 62.6], [82.2, 56.8, 63.2], [82.5, 57.2, 63.9],
        [82.4, 57.0, 63.6], [82.5, 57.4, 64.0],
    ]  # fmt: skip


def test_a_file(tmp_path, small_config):
    e = load_experiment(write(tmp_path, small_config), output=tmp_path / "out")
    assert [row.slug for row in e.rows] == ["random-init", "ours"] and list(e.seeds) == [1, 2, 3, 4, 5]
    assert e.rows[1].pretrain == "a" and e.rows[1].job.opts == ("SEED", "1", "MODEL.DEVICE", "cpu")
    assert e.pretrain["a"].opts == ("DATA.TRAIN", f"{tmp_path}/out/data/x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: t", "titel: t", "did you mean title"),
        ("pretrain: a}", "pretrain: b}", "no pre-training is called 'b'"),
        ("name: ours", "name: Random init", "names that differ"),
        ("[SEED, 1]", "[SEED]", "KEY, VALUE"),
        ("weights: null, ", "", "'weights' is missing"),
        ("rows:", "trials: 0\nrows:", "trials is 0"),
        ("weights: {pretrain: a}", "weights: {}", "either `pretrain` or `file`"),
    ],
)
def test_mistakes(tmp_path, small_config, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, small_config, lambda text: text.replace(old, new)))


def test_a_config_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_experiment(write(tmp_path, "gone.yaml"))


def test_a_probed_experiment(tmp_path, small_config):
    """Every row names a pre-training, which each seed does anew."""
    text = GOOD.replace(
        "transfer: {{config: {config}, opts: [SEED, 1]}}", "probe: {{protocol: knn, opts: [--train, x]}}"
    )
    rows = "rows:\n  - {{name: m = 0, weights: {{pretrain: a}}}}\n"
    path = tmp_path / "e.yaml"
    path.write_text((text[: text.index("rows:")] + rows).format(config=small_config))
    e = load_experiment(path, output=tmp_path / "out")
    assert e.probe.protocol == "knn" and e.rows[0].job == e.pretrain["a"]
    path.write_text(path.read_text().replace("pretrain: a}", "pretrain: b}"))
    with pytest.raises(ConfigError, match="no pre-training is called .b. .a."):
        load_experiment(path)
    path.write_text(path.read_text().replace("knn", "svm"))
    with pytest.raises(ConfigError, match="protocol is 'svm'"):
        load_experiment(path)


LINEAR = """
title: t
probe: {{protocol: linear, config: {config}, opts: [DATA.VAL, v]}}
pretrain: {{a: {{config: {config}}}}}
rows:
  - {{name: ours, weights: {{pretrain: a}}}}
  - {{name: theirs, weights: {{file: theirs.pth}}}}
"""


def test_a_linear_probe(tmp_path, small_config):
    """Rows of a pre-training and of a file: stages, commands, what is missing."""
    path = tmp_path / "e.yaml"
    path.write_text(LINEAR.format(config=small_config))
    experiment = load_experiment(path, output=tmp_path / "out")
    plan = Plan(experiment, engine=None, tools=tmp_path, num_gpus=2)
    assert [row.job is None for row in experiment.rows] == [False, True] and plan.runner == "linear"
    stages = list(plan.stages())
    assert len(stages) == 5 * 3 and stages[0].name == "pre-train 'a', seed 1"
    assert "--nproc-per-node 2" in stages[1].shell and "linear_eval.py --config-file" in stages[1].shell
    assert "MODEL.WEIGHTS theirs.pth SEED 1 OUTPUT_DIR" in stages[10].shell
    missing = "\n".join(map(str, plan.missing()))
    assert "weights 'theirs.pth'" in missing and "labelled images 'v': give DATA.VAL" in missing
    path.write_text(path.read_text().replace("protocol: linear", "protocol: knn"))
    with pytest.raises(ConfigError, match="the linear protocol needs a config, knn has none"):
        load_experiment(path)
