"""Every tool that reads a config, a data-set spec or an experiment says what is wrong with it in one line."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.runtime.commands import WRONG, status
from tests.conftest import ROOT
from tests.pretrain.runtime.test_strict_yaml import REFUSED
from tests.tools.test_errors import tool

SMALL = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
ENGINE = ["--engine", "torchvision"]
WORDS: dict[str, Callable[[str], list[str]]] = {
    "train_net": lambda file: ["--config-file", file, *ENGINE],
    "train_moco": lambda file: ["--config-file", file],
    "linear_eval": lambda file: ["--config-file", file],
    "finetune": lambda file: ["--config-file", file],
    "run_trials": lambda file: ["--config-file", file, "--output-dir", os.path.dirname(file), *ENGINE],
    "lint_config": lambda file: [file, *ENGINE],
    "reproduce": lambda file: [file, "--dry-run", *ENGINE],
    "make_report": lambda file: [file, *ENGINE],
    "compare": lambda file: [file, file, "--engines", "torchvision", "torchvision"],
    "compare_schedules": lambda file: [file, file, *ENGINE],
    "status": lambda file: [file],
    "check_dataset": lambda file: ["--spec", file],
    "eval_predictions": lambda file: ["none.json", "--dataset", "x", "--spec", file],
    "visualize": lambda file: ["data", "--config-file", file, *ENGINE],
}
KINDS = ("twice", "python", "latin1", "laughs", "own_alias", "deep", "two_documents", "list")
CONFIGS = ("train_net", "train_moco", "lint_config")
BASES = {
    "_BASE_: /dev/zero": "'/dev/zero' is no regular file",
    "_BASE_: /etc": "'/etc' is no regular file",
    "_BASE_: [a.yaml]": r"_BASE_ must be a file name, not ['a.yaml']",
    "_BASE_: ''": "_BASE_ must be a file name, not ''",
    "_BASE_: $HOME/nothing.yaml": "nothing.yaml' does not exist",
    "_BASE_: x.yaml": "is its own _BASE_",
    "_BASE_: y.yaml": "is its own _BASE_",
    "SOLVER:": "SOLVER is None, but it is a group of keys",
    "SOLVER: 3": "SOLVER is 3, but it is a group of keys",
    "SEED: {a: 1}": "SEED is {'a': 1}; give a whole number",
    "SEED: 2001-12-14": "SEED is '2001-12-14'; give a whole number",
    "SOLVER.BASE_LR: 2": "the key 'SOLVER.BASE_LR' has a dot in it",
    "SOLVER: {STEPS: [1e1, 2e1]}": "SOLVER.STEPS[0] is '1e1'; give a whole number",
    "SOLVER: {BASE_LR: '1e400'}": "SOLVER.BASE_LR is inf; give a finite number",
    'OUTPUT_DIR: "a\\eb"': "OUTPUT_DIR is 'a\\x1bb'; it has characters that no name has",
    "KNN: &s {a: 1}\nSOLVER: {<<: *s}": "unknown key ",
}  # fmt: skip


@functools.cache
def main(name: str) -> Callable[[list[str]], int]:
    return tool(name).main


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_yaml(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, _ = REFUSED[kind]
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, words in WORDS.items():
        code = status(main(name), words(str(path)))
        said = capsys.readouterr()
        lines = [line for line in (said.out + said.err).splitlines() if "error" in line]
        assert code == (1 if name in ("lint_config", "check_dataset") else WRONG), name
        assert len(lines) == 1 and str(path) in lines[0], (name, lines)


@pytest.mark.parametrize("text", BASES)
def test_what_is_no_config(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    (tmp_path / "y.yaml").write_text("_BASE_: x.yaml")
    for name in CONFIGS:
        code = status(main(name), WORDS[name](str(tmp_path / "x.yaml")))
        said = capsys.readouterr()
        assert code == (1 if name == "lint_config" else WRONG), name
        assert BASES[text] in said.out + said.err, (name, said.out + said.err)


def test_specs_that_a_config_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("a: [")
    words = ["--config-file", str(SMALL), *ENGINE, "DATASETS.SPECS", f"('{tmp_path}/x.yaml',)"]
    assert status(main("train_net"), words) == WRONG
    assert f"cannot read '{tmp_path}/x.yaml', line 1: " in capsys.readouterr().err


def test_no_data_set_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("")
    for what, key in (("data", "TRAIN"), ("truth", "TEST")):
        assert status(main("visualize"), [what, "--config-file", str(tmp_path / "x.yaml")]) == WRONG
        assert f"DATASETS.{key} is empty; name a data set" in capsys.readouterr().err
