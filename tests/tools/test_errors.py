"""What goes wrong at the command line: one clear line, exit code 2 and no traceback, nothing half-written."""

from __future__ import annotations

import gzip
import importlib.util
import os
import pickle
import resource
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pretrain.runtime import checkpoint, commands
from tests.conftest import ROOT
from tests.pretrain.checkpoints import write
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.engines import select


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Runs a tool that must fail: exit code 2, or another one, and an error that holds `message`."""

    def run(name: str, words: Sequence[object], message: str, expected: int = 2) -> None:
        code = commands.status(tool(name).main, [str(word) for word in words])
        err = capsys.readouterr().err
        (line, *_) = [text for text in err.splitlines() if text.startswith("error: ")]
        assert code == expected and message in err and "Traceback" not in err, err
        assert len(line) > 30

    return run


def test_messages_name_the_options_of_the_command(fails, generated, tmp_path):
    """Code that reads configs elsewhere names this command's options, which has no config."""
    sets = ["--train", generated / "iconic" / "train", "--val", generated / "iconic" / "val"]
    plain, how = write(tmp_path / "plain.pth", ""), ["--output-dir", tmp_path / "out", "--device", "cpu", "-k", 4]
    for words, message in (
        ([], "does not say its architecture; give --arch, e.g. --arch resnet50"),
        (["--arch", "resnet81"], "--arch 'resnet81' is not known; did you mean resnet18?"),
        (["--arch", "resnet50"], "Check --arch, or save"),
        (["--train", tmp_path / "none"], "error: --train '"),
        (["--val", generated], "error: --val '"),
    ):
        fails("knn_eval", [plain, *sets, *how, *words], message)


def test_options_that_swallow_the_images_are_named(capsys):
    for words, message in (
        (["--weights", "w.pth", "--opts", "MODEL.DEVICE", "cpu", "img.jpg"], "give IMAGES, before --opts: it takes"),
        (["--weights", "w.pth"], "error: give IMAGES\n"),
    ):
        with pytest.raises(SystemExit) as ended:
            tool("predict").parse(words)
        assert ended.value.code == 2 and message in capsys.readouterr().err
    assert tool("predict").parse(["a.jpg", "--weights", "w", "--opts", "SEED", "1"]).images == ["a.jpg"]


def test_conversion(fails, tmp_path):
    torch.save(moco(trunk(18)), tmp_path / "good.pth.tar")
    (tmp_path / "cut.pth.tar").write_bytes((tmp_path / "good.pth.tar").read_bytes()[:50000])
    torch.save({"state_dict": {f"module.encoder.{k}": v for k, v in trunk(18).items()}}, tmp_path / "simsiam.pth.tar")
    out = tmp_path / "out.pkl"
    fails("convert-pretrain-to-detectron2", [tmp_path / "cut.pth.tar", out], "cannot read checkpoint")
    fails("convert-pretrain-to-detectron2", [tmp_path / "simsiam.pth.tar", out], "module.encoder.conv1.weight")
    fails("convert-pretrain-to-detectron2", [tmp_path / "gone.pth", out], "does not exist")
    (tmp_path / "c.yaml").write_text("color: red\n")
    fails("convert-pretrain-to-detectron2", [tmp_path / "c.yaml", out], "it is no checkpoint, or damaged")
    good, inside = tmp_path / "good.pth.tar", tmp_path / "c.yaml" / "out.pkl"
    fails("convert-pretrain-to-detectron2", [good, inside], "cannot write '")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["train_net", "train_moco"])
def test_configs(fails, tmp_path, name, small_config):
    def config(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    extra = ["--engine", "torchvision"] if name == "train_net" else []
    fails(name, ["--config-file", config("SOLVER: {BASE_LRR: 0.1}"), *extra], "did you mean SOLVER.BASE_LR")
    fails(name, ["--config-file", config("SEED: 1\nSEED: 2\n"), *extra], "stands twice, on line 1 and line 2")
    fails(name, ["--config-file", config("_BASE_: gone.yaml\n"), *extra], "does not exist")
    fails(name, ["--config-file", tmp_path / "none.yaml", *extra], "does not exist")


def test_pre_training(fails, tmp_path, generated):
    tiny = ["--config-file", ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml", "OUTPUT_DIR", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    images = generated / "iconic" / "train"
    fails("train_moco", [*tiny, "DATA.TRAIN", tmp_path / "empty"], "empty")
    fails("train_moco", [*tiny, "DATA.TRAIN", tmp_path / "gone"], "gone")
    fails("train_moco", [*tiny, "DATA.TRAIN", images, "MODEL.K", "37"], "37")
    fails("train_moco", ["--resume", *tiny, "DATA.TRAIN", images], "out")
    (tmp_path / "file").write_text("")
    fails("train_moco", [*tiny, "DATA.TRAIN", images, "OUTPUT_DIR", tmp_path / "file"], "cannot be written (File ex")
    fails("train_moco", [*tiny, "DATA.TRAIN", "--output-dir", tmp_path / "x"], "but 'DATA.TRAIN' has no value")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {}}))
    fails("train_moco", [*tiny, "DATA.TRAIN", images, "MODEL.WEIGHTS", tmp_path / "w.pkl"], "it is no torch checkpoint")
    assert not list(tmp_path.glob("out/checkpoint*"))


def test_images_and_shards(fails, tmp_path, generated):
    tiny = ["--config-file", ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml", "OUTPUT_DIR", tmp_path / "out"]
    tiny += ["DATA.NUM_WORKERS", "1"]
    images = tmp_path / "images"
    shutil.copytree(generated / "iconic" / "train", images)
    broken = sorted(path for path in images.rglob("*") if path.is_file() and path.suffix in (".jpg", ".png"))
    shards = [tmp_path / f"in-{i}.tar" for i in range(2)]
    for shard in shards:
        with tarfile.open(shard, "w") as tar:
            for path in broken:
                tar.add(path, path.name)
    (tmp_path / "in.tar.gz").write_bytes(gzip.compress(shards[0].read_bytes()))
    os.truncate(shards[1], shards[1].stat().st_size // 2)
    fails("train_moco", [*tiny, "DATA.TRAIN", tmp_path / "in-{0..1}.tar"], "set DATA.ON_BAD_SHARD truncate to use")
    fails("train_moco", [*tiny, "DATA.TRAIN", tmp_path / "in-{0..2}.tar"], "in-2.tar' does not exist; copy it")
    fails("train_moco", [*tiny, "DATA.TRAIN", tmp_path / "in.tar.gz"], "decompress it")
    for path in broken:
        path.write_bytes(b"")
    fails("train_moco", [*tiny, "DATA.TRAIN", images], "it is empty); remove it, or set DATA.ON_BAD_IMAGE skip")
    skip = ["DATA.ON_BAD_IMAGE", "skip"]
    fails("train_moco", [*tiny, "DATA.TRAIN", images, *skip], "it is empty); 101 like it in a row")
    assert not list(tmp_path.glob("out/checkpoint*"))


def test_full_disk(fails, tmp_path, generated, monkeypatch, capsys):
    save, (soft, hard) = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_and_fill(*args):
        save(*args)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, hard))  # no file may grow beyond: the next one fails

    monkeypatch.setattr(checkpoint, "save", save_and_fill)
    words = ["--config-file", ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml", "OUTPUT_DIR", tmp_path]
    words += ["DATA.TRAIN", generated / "iconic" / "train", "DATA.NUM_WORKERS", "0", "CHECKPOINT.PERIOD", "1"]
    try:
        last = tmp_path / "checkpoint_last.pth.tar"
        fails("train_moco", words, f"cannot write checkpoint '{last}' (File too large); the earlier '{last}' is un", 74)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(last)["iteration"] == 1
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "result.json").exists()


def test_fine_tuning(fails, tmp_path, generated, small_config, small_opts, monkeypatch):
    words = ["--config-file", small_config, "--engine", "torchvision"]
    fails("train_net", [*words, "--resume", *small_opts], "no checkpoint in")
    fails("train_net", [*words, "--eval-only", *small_opts], "give MODEL.WEIGHTS")
    fails("train_net", [*words, *small_opts, "MODEL.KEYPOINT_ON", "True"], "has no keypoint head")
    fails("train_net", [*words, *small_opts, "--eval-only", "MODEL.WEIGHTS", "gone.pkl"], "'gone.pkl' does not exist")
    fails("train_net", [*words, *small_opts, "OUTPUT_DIR", generated / "voc.yaml"], "cannot be written (File exists)")
    trials = ["--output-dir", tmp_path / "trials", *words, *small_opts]
    fails("run_trials", [*trials, "--trials", "0"], "seeds are []; give one trial or more")

    root = tmp_path / "set"
    shutil.copytree(generated / "scenes", root)
    xml = next((root / "Annotations").glob("*.xml"))
    xml.write_text(xml.read_text().replace("<name>", "<name>un", 1))
    spec = (generated / "voc.yaml").read_text().replace("root: scenes", f"root: {root}")
    (tmp_path / "set.yaml").write_text(spec)
    both = "('generated_trainval', 'generated_test')"
    opts = [*small_opts, "DATASETS.SPECS", f"('{tmp_path}/set.yaml',)", "DATASETS.TRAIN", both]
    fails("train_net", [*words, *opts], xml.stem)
    assert not (tmp_path / "run" / "last_checkpoint").exists()

    monkeypatch.setattr(select, "detectron2_problem", lambda: "Detectron2 is not installed")
    fails("train_net", ["--config-file", small_config, "--engine", "detectron2"], "make detectron2")
    fails(
        "run_trials", ["--config-file", small_config, "--output-dir", tmp_path, "--engine", "detectron2"], "make detect"
    )


def test_experiments(fails, tmp_path):
    table = ROOT / "configs" / "experiments" / "table2.yaml"
    monkey = ["--output-dir", tmp_path / "out", "--engine", "torchvision"]
    fails("reproduce", [table, *monkey], "cannot run yet, missing")
    fails("reproduce", [tmp_path / "gone.yaml", *monkey], "does not exist")
    assert not (tmp_path / "out").exists()
