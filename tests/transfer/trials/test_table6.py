"""The files of Table 6 and the appendix say what the paper says, and each column is of the task that it names."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from transfer.config.load import load_config
from transfer.tasks import task_of
from transfer.trials.experiment import load_experiment

RANDOM, SUPER, MOCO, IG = "random init.", "supervised IN-1M", "MoCo IN-1M", "MoCo IG-1B"
FROZEN, TUNED = "supervised IN-1M, BN frozen", "supervised IN-1M, BN tuned"
TABLES = {  # file -> column -> row -> numbers in the order of the column's metrics
    "table6": {
        "COCO keypoints": {
            RANDOM: (65.9, 86.5, 71.7), SUPER: (65.8, 86.9, 71.9), MOCO: (66.8, 87.4, 72.5), IG: (66.9, 87.8, 73.0),
        },
        "COCO DensePose": {
            RANDOM: (39.4, 78.5, 35.1), SUPER: (48.3, 85.6, 50.6), MOCO: (50.1, 86.8, 53.9), IG: (50.6, 87.0, 54.3),
        },
        "LVIS v0.5": {
            RANDOM: (22.5, 34.8, 23.8), SUPER: (24.4, 37.8, 25.8), MOCO: (24.1, 37.4, 25.5), IG: (24.9, 38.2, 26.4),
        },
        "Cityscapes instances": {RANDOM: (25.4, 51.1), SUPER: (32.9, 59.6), MOCO: (32.3, 59.3), IG: (32.9, 60.3)},
        "Cityscapes semantic": {RANDOM: (65.3,), SUPER: (74.6,), MOCO: (75.3,), IG: (75.5,)},
        "VOC semantic": {RANDOM: (39.5,), SUPER: (74.4,), MOCO: (72.5,), IG: (73.6,)},
    },
    "lvis_schedules": {
        "1x": {
            FROZEN: (24.1, 37.3, 25.4), TUNED: (23.5, 36.6, 24.8), MOCO: (23.2, 36.0, 24.7), IG: (24.3, 37.4, 25.9),
        },
        "2x": {
            FROZEN: (24.4, 37.8, 25.8), TUNED: (23.2, 36.0, 24.4), MOCO: (24.1, 37.4, 25.5), IG: (24.9, 38.2, 26.4),
        },
    },
    "coco_6x": {
        "2x": {RANDOM: (36.7, 33.7), SUPER: (40.6, 36.8), IG: (41.1, 37.4)},
        "6x": {RANDOM: (41.4, None), SUPER: (41.9, None), IG: (42.8, None)},
    },
}  # fmt: skip
TASKS = {"COCO keypoints": "keypoints", "COCO DensePose": "densepose", "Cityscapes semantic": "semantic",
         "VOC semantic": "semantic"}  # fmt: skip
ONE_RUN = ("COCO keypoints", "COCO DensePose", "Cityscapes instances", "6x")


@pytest.mark.parametrize("name", TABLES)
def test_tables_say_what_the_paper_says(name):
    """Every published row with its numbers, its trials, and MSRA input where the weights are of that kind."""
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{name}.yaml")
    assert [c.name for c in experiment.columns] == list(TABLES[name])
    for c in experiment.columns:
        assert c.trials == (1 if c.name in ONE_RUN or name == "coco_6x" else 5)
        published = {
            row.name: tuple(row.entry(c).published.get(m.key) for m in c.metrics)
            for row in experiment.rows
            if row.entry(c).published
        }
        assert published == TABLES[name][c.name]
        for row in experiment.rows:
            config = row.job(c).config
            assert config.stem.endswith("_moco") != (row.name in (RANDOM, SUPER, FROZEN, TUNED))
            assert config.stem.endswith("_frozen") == (row.name == FROZEN or (row.name, c.name) == (SUPER, "LVIS v0.5"))
            assert task_of(load_config(config)).name == TASKS.get(c.name, "instances")
