"""The pages are true: every command runs as written, and links, paths and config keys exist.

A page's bash blocks run from top to bottom in a folder of their own that holds stand-ins for what the page takes as
given (`GIVEN`), so that a command finds what the commands above it have left. What is changed about a command is in
`SMALL`: options that make it small, never its words. What cannot run here stands in `CHECKED` with the reason; of it
the options are parsed by the tool's own parser, and the config is loaded with them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from torch.distributed.run import get_args_parser

import pretrain.config
import pretrain.probes.config
import transfer.config.defaults
from pretrain.runtime import entry
from pretrain.runtime.commands import status
from pretrain.runtime.config import dotted_keys, merge_file, merge_opts
from tests.conftest import ROOT
from tests.docs import stand_ins
from tests.docs.commands import LANGUAGES, PAGES, Command, anchors, blocks, commands, links, spans
from tests.tools.test_errors import tool
from transfer.config.load import load_config
from transfer.data import doctor
from transfer.trials import stages


@dataclass(frozen=True)
class Small:
    """What makes a command small.

    Attributes:
        flags: options that are added in front, unless the command has them.
        instead: values that replace the command's own, where it gives the option or key.
        opts: config keys and values at the end, where the last one counts.
    """

    flags: tuple[str, ...] = ()
    instead: dict[str, str] = field(default_factory=dict)
    opts: tuple[str, ...] = ()


RESNET18 = ("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64")
DETECTOR = (
    *RESNET18, "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(64, 80)", "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TRAIN", "128", "INPUT.MAX_SIZE_TEST", "128", "DATALOADER.NUM_WORKERS", "0",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "200", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50",
    "MODEL.RPN.PRE_NMS_TOPK_TEST", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "16",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "4",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.0001", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)",
    "SOLVER.WARMUP_ITERS", "1", "TEST.PRECISE_BN.NUM_ITER", "1",
)  # fmt: skip
PRETRAINING = (
    "MODEL.ARCH", "resnet18", "MODEL.K", "16", "MODEL.BN_GROUPS", "2", "AUG.CROP_SIZE", "32", "SOLVER.BATCH_SIZE", "8",
    "SOLVER.EPOCHS", "1", "SOLVER.WARMUP_EPOCHS", "0", "KNN.K", "3", "KNN.RESIZE", "36", "DEVICE", "cpu",
    "DATA.NUM_WORKERS", "0", "LOG_PERIOD", "1", "TENSORBOARD", "False",
)  # fmt: skip
PROBE = (
    "MODEL.ARCH", "resnet18", "AUG.CROP_SIZE", "32", "AUG.RESIZE", "36", "SOLVER.BATCH_SIZE", "8",
    "SOLVER.EPOCHS", "1", "SOLVER.STEPS", "()", "DEVICE", "cpu", "DATA.NUM_WORKERS", "0", "TENSORBOARD", "False",
)  # fmt: skip
TRAINING = Small(("--engine", "torchvision"), {"--num-gpus": "1", "--auto-scale": "1"}, DETECTOR)

# How a command begins, without `python` or torchrun -> what makes it small. The longest beginning counts.
SMALL = {
    "datasets/import_annotations.py": Small(),
    "datasets/make_shards.py": Small(),
    "datasets/make_splits.py": Small(),
    "datasets/prepare_generated.py": Small(
        ("--iconic-train", "8", "--iconic-val", "8", "--scenes-trainval", "2", "--scenes-test", "1")
    ),
    "datasets/prepare_voc.py": Small(),
    "tools/check_dataset.py": Small(),
    "tools/compare_schedules.py": Small(("--engine", "torchvision")),
    "tools/convert-pretrain-to-detectron2.py": Small(),
    "tools/eval_predictions.py": Small(),
    "tools/export.py": Small(),  # its config, that of a stand-in, is small
    "tools/finetune.py": Small(opts=PROBE),
    "tools/inspect_checkpoint.py": Small(),
    "tools/knn_eval.py": Small(
        ("--crop-size", "32", "--resize", "36", "--batch-size", "8", "--num-workers", "0", "--device", "cpu"),
        {"-k": "3"},
    ),
    "tools/linear_eval.py": Small(opts=PROBE),
    "tools/lint_config.py": Small(("--engine", "torchvision"), opts=RESNET18),
    "tools/make_report.py": Small(("--engine", "torchvision")),
    "tools/predict.py": Small(("--engine", "torchvision")),
    "tools/reproduce.py mine.yaml": Small(("--engine", "torchvision")),  # DETECTOR stands in mine.yaml
    "tools/reproduce.py configs/experiments/": Small(("--engine", "torchvision", "--dry-run")),  # hours on 8 GPUs
    "tools/run_trials.py": Small(("--trials", "2", *TRAINING.flags), TRAINING.instead, DETECTOR),
    "tools/status.py": Small(),
    "tools/train_moco.py": Small(instead={"KNN.PERIOD": "1"}, opts=PRETRAINING),
    "tools/train_moco.py --config-file configs/pretrain/simclr": Small(opts=(*PRETRAINING, "MODEL.BN_GROUPS", "1")),
    "tools/train_net.py": TRAINING,
    "tools/visualize.py data": Small(opts=(*DETECTOR, "--engine", "torchvision")),
    "tools/visualize.py truth": Small(),
    "tools/visualize.py run": Small(),
}

# Commands that do not run here, and why. Their options, configs and files are checked.
CHECKED = {
    "make demo": "an environment of its own, and minutes; what it runs is configs/experiments/demo.yaml",
    "make test": "it would run this test",
    "make gpu-check": "it needs a GPU",
    "pip install .": "it would change the environment that the tests run in; tests/test_install.py builds the wheel",
    'pip install "setuptools<81" wheel ninja': "it would change the environment that the tests run in",
    'pip install --no-build-isolation ".[detectron2]"': "it builds from a clone of Detectron2's repository",
    "python tools/status.py work/table2 --watch 10": "it shows results that take hours, until Ctrl-C",
    "OMP_NUM_THREADS=1 python benchmarks/data_path.py": "minutes; tests/benchmarks runs it small",
    "OMP_NUM_THREADS=1 python benchmarks/small_images.py": "minutes; tests/benchmarks runs it small",
    "OMP_NUM_THREADS=1 python benchmarks/train_step.py": "minutes; tests/benchmarks runs it small",
    "python benchmarks/detectors.py --rounds 4": "it needs Detectron2; a d2 test runs it small",
    "python tools/run_trials.py --config-file configs/transfer/voc/fcn_R_50_30k_moco.yaml --output-dir work/fcn_voc "
    "--num-gpus 8 MODEL.WEIGHTS moco_v2.pkl": "maps that VOC's archive has not; other tests train on theirs",
    "torchrun --nnodes 8 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host:29500 tools/train_moco.py "
    "--config-file configs/pretrain/moco_v1_R_50_IG1B.yaml --resume auto --output-dir output/ig1b "
    "DATA.TRAIN 'shards/in-{000000..000002}.tar'": "eight machines",
    "sbatch --nodes 8 docs/slurm/moco.sbatch --config-file configs/pretrain/moco_v1_R_50_IG1B.yaml "
    "--output-dir output/ig1b DATA.TRAIN 'shards/in-{000000..000002}.tar'": "SLURM; tests/docs runs the script",
    "python tools/train_net.py --config-file configs/transfer/voc/faster_rcnn_R_50_C4_24k_moco.yaml --num-gpus 4 "
    "--num-machines 2 --machine-rank 0 --dist-url tcp://first-machine:29500 MODEL.WEIGHTS moco_v2.pkl": "two machines",
}

VOC = ("datasets/VOC2007", "datasets/VOC2012")
OWN = ("cells.yaml", "data/cells")
# What a page takes as given: names in the folder that `stand_ins.make` fills.
GIVEN = {
    "README.md": ("moco_v2_800ep.pth.tar", "my_images", "home/Downloads", *VOC, *OWN),
    "datasets/README.md": (
        "imagenet",
        "home/Downloads",
        "shapes.yaml",
        "data/shapes",
        "data/bare",
        "data/cvat",
        "photos",
        "balloon",
        "chess",
        "signs",
        *OWN,
    ),
    "docs/conversion.md": ("moco_v2_800ep.pth.tar", "weights/MSRA-R-50.pkl"),
    "docs/features.md": ("moco_v2_800ep.pth.tar", "imagenet"),
    "docs/finetuning.md": ("moco_v2.pkl", "datasets/coco", *VOC),
    "docs/pretraining.md": ("imagenet", "my_images"),
    "docs/serving.md": ("output/cells", *OWN),
    "docs/tables.md": ("moco_v2.pkl", "mine.yaml", *VOC, *OWN),
}
COMMANDS = [command for page in PAGES for command in commands(page)]


def target(command: Command) -> list[str]:
    """The script and its words, behind variables, `python`, torchrun (whose own parser reads its part) or sbatch."""
    words = [word for word in command.words if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "torchrun":
        parsed = get_args_parser().parse_args(words[1:])
        return [parsed.training_script, *parsed.training_script_args]
    if words[0] == "sbatch":  # the script starts train_moco with its words
        script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        assert (ROOT / words[script]).is_file(), f"{command}: no {words[script]}"
        return ["tools/train_moco.py", *words[script + 1 :]]
    if words[0] == "moco-transfer":
        scripts = {name: path for folder in entry.GROUPS for name, path in entry.scripts(folder).items()}
        assert words[1] in scripts, f"{command}: no such command"
        return [os.path.relpath(scripts[words[1]], ROOT), *words[2:]]
    assert words[0] == "python", f"{command}: a command that this test cannot run; put it into CHECKED with the reason"
    return words[1:]


def small(command: Command) -> str:
    """The entry of SMALL that the command belongs to."""
    words = " ".join(target(command))
    found = [beginning for beginning in SMALL if words.startswith(beginning)]
    assert found, f"{command}: in no category; put it into SMALL, or into CHECKED with the reason"
    return max(found, key=len)


def shrunk(words: Sequence[str], by: Small) -> list[str]:
    words = [by.instead.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return [*(() if set(by.flags[:1]) & set(words) else by.flags), *words, *by.opts]


def call(module: ModuleType, words: Sequence[str]) -> int:
    """A tool's exit code."""
    return status(module.main, [os.path.expanduser(word) for word in words])


def script(path: str) -> ModuleType:
    return tool(f"../{path.removesuffix('.py')}")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stand_ins")
    stand_ins.make(root, DETECTOR)
    return root


@pytest.fixture
def at(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the repository's configs; trials of an experiment run in this process."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.setattr(doctor, "EXPECTED_IMAGES", {})  # of the official sets

    def execute(command: Sequence[str], lock: int, own_session: bool) -> int:
        return call(script(os.path.relpath(command[1], ROOT)), command[2:])

    monkeypatch.setattr(stages, "_execute", execute)
    yield tmp_path


RUNNING = [page for page in PAGES if any(c.text not in CHECKED for c in commands(page))]
SLOW = {"docs/tables.md": pytest.mark.slow}  # experiments, each of several trials; README has one too


@pytest.mark.parametrize("page", [pytest.param(page, marks=SLOW.get(page, ())) for page in RUNNING])
def test_commands_run_as_written(page: str, at: Path, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in GIVEN.get(page, ()):
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (shelf / name).is_dir() else shutil.copyfile
        copy(shelf / name, at / name)
    for command in commands(page):
        if command.text in CHECKED:
            continue
        path, *words = target(command)
        code = call(script(path), shrunk(words, SMALL[small(command)]))
        said = capsys.readouterr()
        assert code == 0, f"{command}\nexit code {code}\n{said.out}\n{said.err}"


class _Parsed(BaseException):
    """Raised with the parsed options, so that the tool does nothing with them."""


def parse_only(path: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a tool's own parser makes of the words; SystemExit if it refuses them."""

    def stopping(parse):
        def parse_and_stop(parser: argparse.ArgumentParser, args=None, namespace=None):
            raise _Parsed(parse(parser, args, namespace))

        return parse_and_stop

    with monkeypatch.context() as patch:
        patch.syspath_prepend(str((ROOT / path).parent))
        module = script(path)
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
        patch.setattr(sys, "argv", [path, *words])
        with pytest.raises(_Parsed) as stop:
            call(module, words) if not path.startswith("benchmarks/") else module.main()
    return stop.value.args[0]


def check(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything about a command that can be known without running it."""
    if command.words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(command.words[1:]) <= set(targets), f"{command}: targets are {targets}"
        return
    if command.words[0] == "pip":
        assert (ROOT / "setup.py").is_file()
        return
    path, *words = target(command)
    args = parse_only(path, words, monkeypatch)
    for word in words:
        assert not word.startswith("configs/") or list(ROOT.glob(word)), f"{command}: there is no {word}"
    file, opts = getattr(args, "config_file", None), getattr(args, "opts", [])
    if path == "tools/train_moco.py":
        cfg = pretrain.config.get_cfg()
        merge_file(cfg, ROOT / file)
        merge_opts(cfg, opts)
    elif path == "tools/train_net.py":
        load_config(ROOT / file, opts)


@pytest.mark.parametrize("text", CHECKED)
def test_what_does_not_run_is_checked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [command for command in COMMANDS if command.text == text]
    assert found, f"no page has the command '{text}'; take it out of CHECKED"
    check(found[0], monkeypatch)


def test_every_command_has_a_category_and_every_entry_a_command() -> None:
    running = [command for command in COMMANDS if command.text not in CHECKED]
    assert {small(command) for command in running} == set(SMALL)
    assert set(GIVEN) <= {command.page for command in running}


def test_commands_within_sentences_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Command(page, line, text)
        for page in PAGES
        for line, text in spans(page)
        if re.match(r"(python|torchrun|make|moco-transfer) ", text) and not text.endswith("...")
    ]
    assert len(found) > 5
    for command in found:
        check(Command(command.page, command.line, command.text.split(" && ")[0]), monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_links_paths_and_keys_exist(page: str) -> None:
    for line, link in links(page):
        if re.match("https?://", link):
            continue
        path, _, anchor = link.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page}:{line}: '{link}' leads nowhere"
        if anchor:
            there_page = os.path.relpath(there, ROOT)
            assert anchor in anchors(there_page), f"{page}:{line}: no heading of {there_page} is called '{anchor}'"
    keys = set().union(*(dotted_keys(part.get_cfg()) for part in (pretrain.config, transfer.config.defaults)))
    keys |= set(dotted_keys(pretrain.probes.config.get_lincls_cfg()))
    for line, text in spans(page):
        if re.fullmatch(r"(tools|configs|docs|tests|transfer|pretrain|benchmarks|datasets)/[\w./-]+", text):
            assert (ROOT / text).exists() or text in MADE, f"{page}:{line}: there is no '{text}'"
        if key := re.match(r"((MODEL|DATA|AUG|SOLVER|KNN|SPEED|CHECKPOINT|DATASETS|INPUT|TEST)\.[A-Z0-9_.]+)\b", text):
            assert any(k == key[1] or k.startswith(key[1] + ".") for k in keys), f"{page}:{line}: no key '{key[1]}'"


MADE = ("datasets/generated",)  # paths that look like the repository's, and are made


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_a_known_language(page: str) -> None:
    assert {block.language for block in blocks(page)} <= set(LANGUAGES)
