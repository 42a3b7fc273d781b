"""The commands on the page are those of the plan's stages."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.data import catalog
from transfer.report.collect import collect
from transfer.report.sections.rerun import commands, rerun


@pytest.mark.parametrize("interpreter", [sys.executable, str(ROOT / ".venv" / "bin" / "python")])
def test_a_row_s_stages_and_its_own_call(
    tmp_path: Path, generated: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter)  # an environment inside the checkout is no part of the words
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=3))
    random, moco = plan.experiment.rows
    stages = {stage.name: stage for stage in plan.stages()}
    assert [name for name, _ in commands(plan, random)] == ["fine-tune 'supervised IN-1M', seed 1"]
    found = commands(plan, moco)
    assert [name for name, _ in found] == ["pre-train 'moco'", "convert 'moco'", "fine-tune 'MoCo <v2>', seed 1"]
    for name, command in found:
        words = shlex.split(command)
        assert words[0] == "python" and words[1].startswith("tools/") and (ROOT / words[1]).is_file()
        interpreter, *rest = stages[name].command
        assert interpreter == sys.executable and words[1:] == [w.removeprefix(f"{ROOT}/") for w in rest]
    page = Page(rerun(plan, collect(plan)))
    assert len(page.all("details")) == 2 and "--rows moco-v2" in page.text
    assert "The other trials: the same command with --only-seed 2 to 3." in page.text
    assert all(" ".join(command.split()) in page.text for _, command in found)


def test_each_data_set_is_listed_once(tmp_path: Path, generated: Path) -> None:
    """However many rows and trials there are: COCO takes many seconds, and a wave's stages are made together."""
    listed: list[str] = []
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=3))
    plan = replace(plan, listing=lambda spec: listed.append(spec.name) or catalog.listing_digest(spec))
    trials = [stage for stage in plan.stages() if stage.kind == "trials"]
    assert len(trials) == 6 and len(listed) == len(set(listed)) == len(trials[0].inputs["data"]) == 2
    listed.clear()
    rerun(plan, collect(plan))
    assert len(listed) == 2
    list(plan.stages())  # a new wave looks again
    assert len(listed) == 4


def test_of_a_probe_every_seed_is_listed(tmp_path: Path, generated: Path) -> None:
    file = trees.experiment_file(tmp_path, generated, trials=2)
    content = yaml.safe_load(file.read_text())
    del content["transfer"]
    content["probe"] = {"protocol": "knn", "opts": ["--train", "a", "--val", "b"]}
    content["rows"][0]["weights"] = {"pretrain": "moco"}
    for row in content["rows"]:
        row["published"] = {"knn/acc1": 50.0}
    file.write_text(yaml.safe_dump(content))
    plan = trees.plan(file)
    names = [name for name, _ in commands(plan, plan.experiment.rows[-1])]
    assert len(names) == 4 and sum("seed 2" in name for name in names) == 2
