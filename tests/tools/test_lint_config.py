"""The linter's command line: what it prints and how it exits."""

from __future__ import annotations

import json

import torch

from pretrain.runtime.commands import status
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.convert.convert import convert

VOC = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_50_C4_24k_moco.yaml"
ENGINE = ["--engine", "torchvision"]


def run(*words: object) -> int:
    return status(tool("lint_config").main, [*ENGINE, *map(str, words)])


def test_the_projects_configs(capsys):
    files = sorted((ROOT / "configs" / "transfer").rglob("*.yaml"))
    assert run(*files) == 0
    out = capsys.readouterr().out
    classes_unknown = sum(path.parent.name == "lvis" for path in files)  # without its json
    assert "error [" not in out
    assert out.count("were checked; nothing is wrong") == len(files) - out.count("learning-rate") - classes_unknown


def test_files_that_do_not_load_are_findings(tmp_path, capsys):
    bad = {"twice": "SEED: 1\nSEED: 2\n", "base": "_BASE_: gone.yaml\n", "key": "SOLVER: {BASE_LRR: 0.1}\n"}
    for name, text in bad.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert run(*(tmp_path / f"{name}.yaml" for name in bad), VOC, "--json") == 1
    table = json.loads(capsys.readouterr().out)
    messages = [" ".join(f["message"] for f in row["findings"]) for row in table]
    assert "stands twice, on line 1 and line 2" in messages[0] and "'gone.yaml'" in messages[1]
    assert "did you mean SOLVER.BASE_LR" in messages[2] and table[3] == {"file": str(VOC), "findings": []}


def test_weights(tmp_path, capsys):
    torch.save(moco(trunk(18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "r18.pkl")
    assert run(VOC, "MODEL.WEIGHTS", tmp_path / "r18.pkl") == 1
    assert "error [architecture] MODEL.RESNETS.DEPTH: 50, but the weights (resnet18) have 18" in capsys.readouterr().out
    assert run(VOC, "MODEL.WEIGHTS", tmp_path / "gone.pkl") == 1
    assert "gone.pkl' does not exist" in capsys.readouterr().out


def test_patterns(capsys, tmp_path, monkeypatch):
    """As the help shows it, from any folder; what matches there wins."""
    monkeypatch.chdir(tmp_path)
    pattern = "configs/transfer/voc/fcn_*.yaml"
    assert run(pattern, "--json") == 0
    said = capsys.readouterr()
    files = sorted((ROOT / "configs" / "transfer" / "voc").glob("fcn_*.yaml"))
    assert [row["file"] for row in json.loads(said.out)] == list(map(str, files)) and len(files) > 1
    assert f"taking the {len(files)} installed files of '{ROOT}'" in said.err
    (tmp_path / "configs/transfer/voc").mkdir(parents=True)
    (tmp_path / "configs/transfer/voc/fcn_mine.yaml").write_text("SEED: 1\n")
    assert run(pattern) == 0
    said = capsys.readouterr()
    assert said.out.startswith("configs/transfer/voc/fcn_mine.yaml:") and not said.err
    assert run("configs/none/*.yaml") == 2 and "'configs/none/*.yaml' does not exist" in capsys.readouterr().err


def test_nothing_to_lint(capsys, tmp_path):
    assert run(tmp_path / "gone.yaml") == 2 and "does not exist" in capsys.readouterr().err
    assert run("SEED", "1") == 2 and "give config files (.yaml) first" in capsys.readouterr().err
