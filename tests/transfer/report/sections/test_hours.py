"""Hours and GPU-hours: sums of what the results say, and a dash where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.result import RunResult
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.report.collect import collect
from transfer.report.sections.hours import amount, gpu_processes, spent, table


def result(seconds: float = 3600.0, **provenance: int | str) -> RunResult:
    return RunResult("train", "torchvision", 1, "digest", seconds=seconds, provenance=provenance)


def test_processes_on_gpus() -> None:
    assert gpu_processes(result(computed_on="cuda", processes=4)) == 4
    assert gpu_processes(result(computed_on="cpu", processes=4)) == 0
    assert gpu_processes(result()) is None


def test_sums_per_row_and_in_all(tmp_path: Path, generated: Path) -> None:
    cost = {"gpu_hours": 40, "source": "5 h on 8 V100, a paper"}
    config = str(trees.ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")
    plan = trees.plan(
        trees.experiment_file(tmp_path, generated, trials=2, pretrain={"moco": {"config": config, "cost": cost}})
    )
    for row, processes in zip(plan.experiment.rows, (1, None), strict=True):
        for seed in plan.experiment.columns[0].seeds:
            trees.trial(
                plan, row, seed, 3, seconds=3600.0 * seed, provenance={"computed_on": "cuda", "processes": processes}
            )
    RunResult("pretrain", "pretrain", 0, "d", seconds=1800.0, provenance={"computed_on": "cuda", "processes": 8}).save(
        plan.pretrain_folder("moco")
    )
    report = collect(plan)
    lines = spent(plan, report)
    assert [(s.name, s.runs, s.hours, s.gpu_hours, s.estimate) for s in lines] == [
        ("pre-training 'moco'", 1, 0.5, 4.0, 40.0),
        ("supervised IN-1M", 2, 3.0, 3.0, None),
        ("MoCo <v2>", 2, 3.0, None, None),
    ]
    said = Page(table(plan, report)).text
    assert "all 5 6.50 – 40.0" in said and "40 GPU-hours (5 h on 8 V100, a paper) each" in said
    assert "A dash:" in said and "whose cost the experiment file states" in said


def test_of_an_unfinished_experiment(tmp_path: Path, generated: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=3))
    trees.fill(plan, finished={"moco-v2": 1})
    said = Page(table(plan, collect(plan))).text
    assert "1 of 3" in said and "states no cost" in said


@pytest.mark.parametrize(
    ("hours", "words"), [(None, "–"), (0, "0"), (0.004, "0.00"), (9.99, "9.99"), (53.04, "53.0"), (1234.5, "1,234")]
)
def test_amounts(hours: float | None, words: str) -> None:
    assert amount(hours) == words
