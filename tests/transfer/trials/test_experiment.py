"""Experiment files: every one of the project parses; mistakes are named before anything runs."""

from __future__ import annotations

import pytest

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from transfer.trials.experiment import load_experiment

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
    assert experiment.title and experiment.rows and experiment.trials == (5 if experiment.probe is None else 2)
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
    with pytest.raises(ConfigError, match="must name a pre-training .a., not b"):
        load_experiment(path)
    path.write_text(path.read_text().replace("knn", "svm"))
    with pytest.raises(ConfigError, match="protocol is 'svm'"):
        load_experiment(path)
