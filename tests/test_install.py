"""What `pip install .` installs: the packages, every command and every config, found from any folder."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pretrain.runtime import commands, entry, shipped
from pretrain.runtime.commands import status
from pretrain.runtime.config import load_yaml_with_base
from pretrain.runtime.errors import ConfigError
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from transfer.tasks.installing import how_to_install
from transfer.trials.experiment import load_experiment

CONFIG = "configs/transfer/voc/faster_rcnn_R_18_C4_small_moco.yaml"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree: a build leaves files behind."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    for name in ("pretrain", "transfer", "tools", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "datasets" / "VOC2007").mkdir(parents=True)  # data must stay out, whatever it is called
    (tree / "datasets" / "VOC2007" / "README.md").touch()
    for path in (ROOT / "datasets").glob("*.*"):
        if path.is_file():
            shutil.copyfile(path, tree / "datasets" / path.name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which pip would have put it."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(site)
    return site


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command in `cwd`, without the checkout."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from pretrain.runtime.entry import entry; entry()"
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", code, *words]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_the_wheel_has_everything_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        points = z.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"pretrain", "transfer", "moco_transfer"}
    assert "moco-transfer = pretrain.runtime.entry:entry" in points
    want = {str(p.relative_to(ROOT)) for pattern in ("pretrain/**/*.py", "transfer/**/*.*") for p in ROOT.glob(pattern)}
    want = {name for name in want if "__pycache__" not in name} | {"pretrain/py.typed"}
    beside = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "tools").glob("*"), *(ROOT / "datasets").glob("*.*")]
    want |= {f"moco_transfer/{p.relative_to(ROOT)}" for p in beside if p.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == want


def test_the_installed_command(installed, tmp_path):
    listed = run(installed, tmp_path)
    assert listed.returncode == 0 and listed.stderr == ""
    for folder in ("tools", "datasets"):
        for path in (ROOT / folder).glob("*.py"):
            assert f"  {path.stem.replace('_', '-')} " in listed.stdout


@pytest.mark.slow
def test_installed_commands_find_installed_configs(installed, tmp_path):
    shown = run(installed, tmp_path, "lint-config", "--engine", "torchvision", CONFIG)
    there = installed / "moco_transfer" / CONFIG
    assert shown.returncode == 0 and shown.stdout.startswith(f"{there}: ")
    assert f"taking the installed '{there}'" in shown.stderr
    drawn = run(
        installed, tmp_path, "reproduce", "--engine", "torchvision", "--dry-run", "configs/experiments/demo.yaml"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert str(installed / "moco_transfer" / "datasets" / "prepare_generated.py") in drawn.stdout


def test_what_is_on_disk_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert shipped.config_file(CONFIG) == str(ROOT / CONFIG)
    assert str(ROOT / CONFIG) in capsys.readouterr().err
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).touch()
    for name in (CONFIG, "configs/gone.yaml", "configs/../setup.py", "mine.yaml", str(ROOT / CONFIG), "", "configs"):
        assert shipped.config_file(name) == name
    assert capsys.readouterr().err == ""


def test_a_near_miss_is_met_with_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_v2.yaml").touch()
    for name, says in {
        "configs/transfer/voc/fcn_R50_30k.yaml": "did you mean configs/transfer/voc/fcn_R_50_30k.yaml or configs",
        "lincls_R_50.yaml": "did you mean configs/pretrain/lincls_R_50.yaml?",
        "mine_v3.yaml": "did you mean mine_v2.yaml?",
        "configs/zzz.yaml": "check the path",
        "a\0b/c.yaml": "check the path",
    }.items():
        assert f"{name!r} does not exist; {says}" in shipped.not_there(name)
    with pytest.raises(ConfigError, match=r"'configs/pretrain/lincls.R_50.yaml' does not exist; did you mean configs"):
        load_yaml_with_base("configs/pretrain/lincls.R_50.yaml")


def test_own_files_name_installed_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, experiment = tmp_path / "mine.yaml", tmp_path / "two.yaml"
    mine.write_text(f"_BASE_: {CONFIG}\nSEED: 7\n")
    assert load_yaml_with_base(mine) == {**load_yaml_with_base(ROOT / CONFIG), "SEED": 7}
    experiment.write_text(
        f"{{title: t, output: work, metrics: [AP], transfer: {{config: {CONFIG}}}, rows: [{{name: a, weights: null}}]}}"
    )
    run = load_experiment(experiment).rows[0].entries[""].run
    assert run is not None and run.config == ROOT / CONFIG
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).write_text("SEED: 8\n")
    assert load_yaml_with_base(mine) == {"SEED": 7}
    (tmp_path / CONFIG).unlink()
    mine.write_text("_BASE_: configs/transfer/gone.yaml\n")
    with pytest.raises(ConfigError, match="does not exist"):
        load_yaml_with_base(mine)


def test_only_one_process_says_which(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert shipped.config_file(CONFIG) == str(ROOT / CONFIG) and capsys.readouterr().err == ""


@pytest.mark.parametrize("word", ["train-net", "train_net", "tools/train_net.py", "train_net.py"])
def test_names_of_commands(word):
    assert entry.scripts("tools")[entry.command_name(word)] == ROOT / "tools" / "train_net.py"


def test_every_command_says_what_it_is_for():
    for folder in entry.GROUPS:
        for path in entry.scripts(folder).values():
            assert len(entry.purpose(path)) > 15, path


@pytest.fixture
def as_in_an_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "home", lambda: tmp_path / shipped.PACKAGE)


def test_commands_are_named_as_an_installation_has_them(as_in_an_installation):
    for text, there in {
        "run python tools/train_net.py, or set free": "run moco-transfer train-net, or set free",
        "torchrun --nproc-per-node 8 tools/knn_eval.py ...": "torchrun --nproc-per-node 8 --no-python moco-transfer "
        "knn-eval ...",
        "python datasets/prepare_voc.py --root x\npython tools/convert-pretrain-to-detectron2.py a": "moco-transfer "
        "prepare-voc --root x\nmoco-transfer convert-pretrain-to-detectron2 a",
        "datasets/VOC2007 and tools/*.py, run.py": "datasets/VOC2007 and tools/*.py, run.py",
    }.items():
        assert shipped.as_installed(text) == there


def test_help_and_errors_name_installed_commands(as_in_an_installation, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/site/moco_transfer/tools/linear_eval.py", "--help"])
    with pytest.raises(SystemExit):
        tool("linear_eval").main()
    shown = capsys.readouterr().out
    assert shown.startswith("usage: moco-transfer linear-eval [-h]") and ".py" not in shown
    assert "torchrun --nproc-per-node 8 --no-python moco-transfer linear-eval --config-file" in shown
    fine_tuning = str(ROOT / "configs" / "pretrain" / "finetune_R_50_imagenet.yaml")
    assert status(tool("linear_eval").main, ["--config-file", fine_tuning]) == 2
    assert "MODEL.TRUNK is free, which moco-transfer finetune trains" in capsys.readouterr().err


def test_remedies_that_an_installation_has(as_in_an_installation, monkeypatch):
    url = "git+https://github.com/facebookresearch/detectron2@0123"
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch", f"detectron2 @ {url} ; extra == 'd'"])
    said = how_to_install("detectron2", "densepose")
    assert f'pip install --no-build-isolation "{url}" && pip install' in said and "make" not in said
    assert said.endswith(f'"{url}#subdirectory=projects/DensePose"`')
    monkeypatch.undo()
    assert how_to_install("detectron2", "densepose") == "`make detectron2 densepose`"
    assert shipped.as_installed("python tools/train_net.py") == "python tools/train_net.py"
    wanted = importlib.metadata.requires("moco-transfer") or []
    assert any(line.startswith("detectron2 @ git+https://github.com/facebookresearch/detectron2@") for line in wanted)


def test_an_unknown_command(monkeypatch, capsys):
    for word, says in {"train-nte": "did you mean train-net", "zzz": "moco-transfer --help lists them"}.items():
        monkeypatch.setattr(sys, "argv", ["moco-transfer", word])
        assert status(entry.main) == 2
        assert says in capsys.readouterr().err


class _Asked(Exception):
    """Raised with a command's parser, so that the command does nothing."""


@pytest.mark.parametrize("name", [name for folder in entry.GROUPS for name in entry.scripts(folder)])
def test_every_option_says_in_words_what_it_is(name, monkeypatch):
    def asked(parser, *_, **__):
        raise _Asked(parser)

    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(commands.Parser, method, asked)
    path = next(path for folder in entry.GROUPS for of, path in entry.scripts(folder).items() if of == name)
    with pytest.raises(_Asked) as stopped:
        runpy.run_path(str(path))["main"]([])

    def words(text):
        return re.search("[a-z]{2}", re.sub(r"%\(\w+\)s", "", text or ""))

    silent = [action.dest for action in stopped.value.args[0]._actions if not words(action.help)]
    assert not silent


@pytest.mark.parametrize("name", ["knn_eval", "linear_eval", "finetune"])
def test_help_does_not_wait_for_torch(name):
    run_it = f"runpy.run_path({str(ROOT / 'tools' / name)!r} + '.py', run_name='__main__')"
    code = f"import runpy, sys\nsys.argv = ['x', '--help']\ntry: {run_it}\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
