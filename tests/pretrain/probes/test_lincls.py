"""The linear probe: the protocol, against a naive loop; frozen, exactly resumable, the same in two processes."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models import resnet18

from pretrain.data.augment import OneCrop
from pretrain.data.labelled import augmented_view, central_view, find_labelled
from pretrain.data.views import TrainingBatches, ViewDataset
from pretrain.probes import lincls
from pretrain.probes.cautions import worse_than_chance
from pretrain.probes.classifier import Classifier, evaluate
from pretrain.probes.config import get_lincls_cfg
from pretrain.probes.features import Features
from pretrain.probes.lincls import main
from pretrain.probes.trunk import FrozenTrunk, TrunkChangedError
from pretrain.runtime import checkpoint
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.commands import status
from pretrain.runtime.config import ConfigError, merge_file, merge_opts
from pretrain.runtime.log import read_metrics
from pretrain.runtime.result import RunResult
from pretrain.schedule import step
from tests.pretrain.checkpoints import trained_resnet18, trunk_of, write
from tests.pretrain.conftest import ROOT
from tests.processes import run_in_processes, run_tool

CONFIGS = ROOT / "configs" / "pretrain"
Make = Callable[..., CfgNode]


def options(generated: Path, weights: Path, folder: Path, *opts: object) -> list[str]:
    """16 training images of 32 pixels, 3 epochs of 3 batches."""
    words: list[object] = ["MODEL.WEIGHTS", weights, "DATA.TRAIN", generated / "iconic/train"]
    words += ["DATA.VAL", generated / "iconic/val", "OUTPUT_DIR", folder, "AUG.CROP_SIZE", 32, "AUG.RESIZE", 36]
    words += ["SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 3, "SOLVER.STEPS", (1, 2), "LOG_PERIOD", 1, "SEED", 5]
    return [str(word) for word in (*words, *opts)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(tmp_path_factory.mktemp("weights") / "moco.pth.tar")
    checkpoint.save(checkpoint.load(path) | {"config": {"AUG": {"CROP_SIZE": 48}}}, path)
    return path


@pytest.fixture(scope="module")
def make(generated: Path, weights: Path) -> Make:
    def make(folder: Path, *opts: object) -> CfgNode:
        cfg = get_lincls_cfg()
        merge_file(cfg, CONFIGS / "lincls_tiny.yaml")
        merge_opts(cfg, options(generated, weights, folder, *opts))
        return cfg

    return make


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[CfgNode, RunResult]:
    """With augmentation, and nothing interrupted it."""
    cfg = make(tmp_path_factory.mktemp("finished") / "run", "AUG.TRAIN", True)
    return cfg, main(cfg)


def last(cfg: CfgNode) -> dict[str, Any]:
    return checkpoint.load(Path(cfg.OUTPUT_DIR) / "checkpoint_last.pth.tar")


def scalars(cfg: CfgNode) -> list[dict[str, Any]]:
    lines = read_metrics(Path(cfg.OUTPUT_DIR) / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_classifier_starts_as_the_protocol_says() -> None:
    probes = []
    for _ in range(2):
        torch.rand(1)
        probes.append(Classifier(FrozenTrunk(resnet18()), 1000, seed=3))
    fc = probes[0].fc
    assert fc.weight.std().item() == pytest.approx(0.01, rel=0.01) and abs(fc.weight.mean().item()) < 1e-4
    assert not fc.bias.any() and torch.equal(fc.weight, probes[1].fc.weight)
    assert [name for name, p in probes[0].named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def naive(cfg: CfgNode, view: Any) -> nn.Module:
    """The protocol on a whole ResNet, spelled out: everything frozen but fc, all in eval mode, plain SGD."""
    data = find_labelled(cfg.DATA.TRAIN, "")
    network = trained_resnet18()
    network.fc = Classifier(FrozenTrunk(trained_resnet18()), len(data.classes), cfg.SEED).fc
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name in ("fc.weight", "fc.bias")
    optimizer = torch.optim.SGD(network.fc.parameters(), 30.0, momentum=0.9, weight_decay=0.0)
    dataset = ViewDataset(data.files, OneCrop(view), cfg.SEED)
    for i, pairs in enumerate(TrainingBatches(len(data), 4, 3, cfg.SEED)):
        optimizer.param_groups[0]["lr"] = 30.0 * 0.1 ** (i // 4)  # STEPS (1, 2), 4 batches an epoch
        images = torch.stack([dataset[pair].views[0] for pair in pairs])  # type: ignore[index]
        labels = torch.tensor([int(data.labels[index]) for _, index in pairs])
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def validate(network: nn.Module, cfg: CfgNode) -> tuple[float, float]:
    data, view = find_labelled(cfg.DATA.VAL, ""), central_view(36, 32)
    dataset = ViewDataset(data.files, OneCrop(view), 0)
    ranks = []
    for i, label in enumerate(data.labels):
        with torch.no_grad():
            scores = network(dataset[(0, i)].views[0].unsqueeze(0))[0]  # type: ignore[index]
        ranks.append(int((scores > scores[int(label)]).sum()))
    return 100 * sum(r < 1 for r in ranks) / len(ranks), 100 * sum(r < 5 for r in ranks) / len(ranks)


def test_equal_to_a_naive_loop_with_augmentation(finished: tuple[CfgNode, RunResult]) -> None:
    cfg, result = finished
    network = naive(cfg, augmented_view(32))
    for name in ("weight", "bias"):
        torch.testing.assert_close(last(cfg)["state_dict"][f"module.fc.{name}"], network.fc.get_parameter(name).data)
    assert (result.metrics["acc1"], result.metrics["acc5"]) == validate(network, cfg)


def test_equal_to_a_naive_loop_with_cached_features(make: Make, tmp_path: Path) -> None:
    cfg = make(tmp_path / "run")
    result = main(cfg)
    network = naive(cfg, central_view(36, 32))
    torch.testing.assert_close(
        last(cfg)["state_dict"]["module.fc.weight"], network.fc.weight.data, rtol=1e-4, atol=1e-3
    )
    assert (result.metrics["acc1"], result.metrics["acc5"]) == validate(network, cfg)
    assert "every feature computed once" in " ".join(result.notes)


def test_the_resize_follows_the_crop(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A crop of 32 shows little of images resized to 256: the resize follows, or a caution says so."""
    runs = [(make(tmp_path / f"{size}", "AUG.RESIZE", size, "SOLVER.EPOCHS", 1)) for size in (0, 37, 256)]
    follows, stated, narrow = (main(cfg) for cfg in runs)
    assert torch.equal(*(last(cfg)["state_dict"]["module.fc.weight"] for cfg in runs[:2]))
    assert follows.config_digest == stated.config_digest != narrow.config_digest
    assert "validation on the central 32 pixels of images resized to 37" in follows.notes
    assert "AUG.RESIZE: 37" in (tmp_path / "0" / "config.yaml").read_text().replace("  RESIZE", "AUG.RESIZE")
    said = [line for line in caplog.messages if "central crop of 32 pixels shows 12%" in line]
    assert len(said) == 1 and said[0] in narrow.notes and said[0] not in follows.notes
    assert main(runs[1].clone(), resume="auto") == stated
    runs[0].OUTPUT_DIR = runs[1].OUTPUT_DIR
    assert main(runs[0], resume="auto") == stated  # a run that states the number goes on as one that lets it follow


def test_a_rate_that_never_falls_and_a_loss_that_explodes_are_said_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = main(make(tmp_path / "run", "SOLVER.STEPS", (60, 80), "SOLVER.BASE_LR", 1e6))
    for words in ("no step of SOLVER.STEPS (60, 80) is reached in 3 epochs", "where guessing among 8 classes has 2.08"):
        (said,) = (line for line in caplog.messages if words in line)
        assert [note.partition(" is ")[0] for note in result.notes].count(said.partition(" is ")[0]) == 1


def test_worse_than_chance() -> None:
    assert not worse_than_chance(6.9, 1000) and not worse_than_chance(60.0, 1000) and not worse_than_chance(0.0, 1)
    (line,) = worse_than_chance(9.5e8, 4)
    assert line.startswith("the validation loss is 9.5e+08, where guessing among 4 classes has 1.39: ")


def test_what_a_probe_leaves(finished: tuple[CfgNode, RunResult], weights: Path) -> None:
    cfg, result = finished
    folder = Path(cfg.OUTPUT_DIR)
    assert RunResult.load(folder) == result
    assert (result.kind, result.iterations, result.seed) == ("linear", 12, 5)
    assert result.weights_sha256 == checkpoint.sha256(weights) and result.extra["arch"] == "resnet18"
    assert all((folder / path).exists() for path in result.artifacts.values()) and not list(folder.rglob(".*.tmp"))
    assert f"unchanged: SHA-256 {result.extra['trunk_sha256']}" in result.notes[-1]
    assert any("trained at AUG.CROP_SIZE 48 and looks at 32 pixels" in note for note in result.notes)
    validations = [line for line in scalars(cfg) if "val/acc1" in line]
    assert [line["iteration"] for line in validations] == [3, 7, 11]
    assert result.metrics["acc1"] == validations[-1]["val/acc1"]
    assert result.metrics["best_acc1"] == max(line["val/acc1"] for line in validations)
    rates = [line["lr"] for line in scalars(cfg) if "lr" in line]
    assert rates == pytest.approx([30.0] * 4 + [3.0] * 4 + [0.3] * 4)


def test_checkpoint_has_the_references_layout(finished: tuple[CfgNode, RunResult]) -> None:
    saved = last(finished[0])
    assert {"epoch", "arch", "state_dict", "best_acc1", "optimizer"} < saved.keys()
    assert (saved["epoch"], saved["arch"]) == (3, "resnet18")
    assert isinstance(saved["best_acc1"], Tensor) and len(saved["optimizer"]["param_groups"][0]["params"]) == 2
    network = resnet18(num_classes=len(saved["state_dict"]["module.fc.bias"]))
    network.load_state_dict({name.removeprefix("module."): value for name, value in saved["state_dict"].items()})
    for name, value in trunk_of(trained_resnet18()).items():
        assert torch.equal(saved["state_dict"]["module." + name], value), name
    optimizer = torch.optim.SGD(network.fc.parameters(), 1.0)
    optimizer.load_state_dict(saved["optimizer"])


@pytest.mark.parametrize("broken", ["batch norm in training mode", "a weight that moves"])
def test_a_trunk_that_does_not_stay_frozen_stops_the_run(
    broken: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "batch norm in training mode":
        monkeypatch.setattr(FrozenTrunk, "train", nn.Module.train)
    else:
        forward = Classifier.forward

        def moving(self: Classifier, *args: Any) -> Any:
            self.trunk.network.get_parameter("layer4.0.conv1.weight").data[0, 0, 0, 0] += 1e-3
            return forward(self, *args)

        monkeypatch.setattr(Classifier, "forward", moving)
    cfg = make(tmp_path / "run", "AUG.TRAIN", True)
    with pytest.raises(TrunkChangedError, match="the frozen trunk has changed"):
        main(cfg)
    assert not (tmp_path / "run" / "checkpoint_last.pth.tar").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def equal_runs(a: CfgNode, b: CfgNode) -> bool:
    mine, theirs = last(a), last(b)
    assert mine["state_dict"].keys() == theirs["state_dict"].keys()
    same = all(torch.equal(value, theirs["state_dict"][name]) for name, value in mine["state_dict"].items())
    momentum = (saved["optimizer"]["state"][0]["momentum_buffer"] for saved in (mine, theirs))
    return same and torch.equal(*momentum) and mine["validation"] == theirs["validation"]


KILLED_IN_ITERATION_7 = """
import os, signal, sys
sys.path[:0] = ["", "tools"]
from pretrain import loop
from linear_eval import main
step, steps = loop.train_step, []
def killed(*args, **kw):
    steps.append(1)
    if len(steps) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kw)
loop.train_step = killed
main(sys.argv[1:])
"""


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    finished: tuple[CfgNode, RunResult], generated: Path, weights: Path, make: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    opts = ["AUG.TRAIN", "True", "CHECKPOINT.PERIOD", "3", "DATA.NUM_WORKERS", "2"]  # an epoch has 4 iterations
    words = ["--config-file", str(CONFIGS / "lincls_tiny.yaml"), *options(generated, weights, folder, *opts)]
    (tmp_path / "killed.py").write_text(KILLED_IN_ITERATION_7)
    died = run_tool(tmp_path / "killed.py", *words, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (folder / "result.json").exists()
    (folder / "features" / ".train.features.npy.x1y2z3_4.tmp").write_text("half")
    assert checkpoint.load(folder / "checkpoint_last.pth.tar")["iteration"] == 6

    cfg = make(folder, *opts)
    result = main(cfg, resume="yes")
    assert equal_runs(cfg, finished[0]) and scalars(cfg) == scalars(finished[0])
    differ = {"images_per_second"}
    assert {k: v for k, v in result.metrics.items() if k not in differ} == {
        k: v for k, v in finished[1].metrics.items() if k not in differ
    }
    assert result.config_digest == finished[1].config_digest and not list(folder.rglob(".*.tmp"))

    before = os.stat(folder / "checkpoint_last.pth.tar").st_mtime_ns
    assert main(cfg, resume="auto") == result  # a finished probe is not repeated
    assert os.stat(folder / "checkpoint_last.pth.tar").st_mtime_ns == before


def probe(words: list[str]) -> None:
    cfg = get_lincls_cfg()
    merge_file(cfg, CONFIGS / "lincls_tiny.yaml")
    merge_opts(cfg, words)
    cfg.freeze()
    main(cfg)


def test_two_processes_equal_one(
    finished: tuple[CfgNode, RunResult], generated: Path, weights: Path, tmp_path: Path
) -> None:
    words = options(generated, weights, tmp_path / "run", "AUG.TRAIN", True)
    run_in_processes(probe, tmp_path, words)
    result, one = RunResult.load(tmp_path / "run"), finished[1]
    saved, expected = checkpoint.load(tmp_path / "run" / "checkpoint_last.pth.tar"), last(finished[0])
    for name, value in expected["state_dict"].items():
        torch.testing.assert_close(saved["state_dict"][name], value, rtol=1e-4, atol=1e-3)
    assert len(saved["processes"]) == 2 and result.extra["trunk_sha256"] == one.extra["trunk_sha256"]
    for name in ("acc1", "acc5", "best_acc1"):
        assert result.metrics[name] == one.metrics[name]
    assert result.metrics["train_loss"] == pytest.approx(one.metrics["train_loss"], rel=1e-3)


def test_other_runs_are_not_continued(
    finished: tuple[CfgNode, RunResult], make: Make, generated: Path, tmp_path: Path
) -> None:
    folder, aug = Path(finished[0].OUTPUT_DIR), ("AUG.TRAIN", True)
    other = trained_resnet18().state_dict()
    other["bn1.running_mean"] += 1
    checkpoint.save({"arch": "resnet18", "state_dict": {f"module.{k}": v for k, v in other.items()}}, tmp_path / "o")
    for opts, message in [
        ((*aug, "SOLVER.BASE_LR", 3), "SOLVER.BASE_LR was 30.0, is 3.0"),
        ((*aug, "SEED", 1), "SEED was 5, is 1"),
        ((*aug, "DATA.VAL", generated / "iconic" / "train"), "DATA.VAL names other images"),
        ((*aug, "MODEL.WEIGHTS", tmp_path / "o"), "MODEL.WEIGHTS holds another trunk"),
    ]:
        with pytest.raises(ConfigError) as caught:
            main(make(folder, *opts), resume="auto")
        assert "belongs to another run: " + message in str(caught.value)
    with pytest.raises(ConfigError, match="exists; continue it with --resume, or choose another OUTPUT_DIR"):
        main(finished[0])
    with pytest.raises(ConfigError, match="nothing to resume"):
        main(make(tmp_path / "new"), resume="yes")
    saved = last(finished[0])
    theirs = {key: saved[key] for key in ("epoch", "arch", "state_dict", "best_acc1", "optimizer")}
    checkpoint.save(theirs, tmp_path / "theirs" / "checkpoint_last.pth.tar")
    with pytest.raises(CheckpointError, match="does not say where its run was"):
        main(make(tmp_path / "theirs", *aug), resume="yes")
    assert RunResult.load(folder) == finished[1]


def test_the_reference_agrees(
    finished: tuple[CfgNode, RunResult], weights: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(reference))
    theirs = importlib.import_module("main_lincls")
    theirs.sanity_check(last(finished[0])["state_dict"], str(weights))  # asserts that the trunk is the checkpoint's

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    args = argparse.Namespace(lr=30.0, schedule=[60, 80])
    for epoch in range(100):
        theirs.adjust_learning_rate(optimizer, epoch, args)
        assert step(epoch, base_lr=30.0, steps=(60, 80)) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "opts, message",
    [
        (("SOLVER.BATCH_SIZE", 17), "DATA.TRAIN has 16 images, fewer than one batch"),
        (("MODEL.ARCH", "resnet50"), "not a complete resnet50"),
        (("MODEL.WEIGHTS", "''"), "MODEL.WEIGHTS is empty"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    opts: tuple[object, ...], message: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=message):
        main(make(tmp_path / "run", *opts))
    assert not (tmp_path / "run").exists()


def test_evaluate_in_chunks() -> None:
    torch.manual_seed(0)
    fc, x, y = nn.Linear(6, 9), torch.randn(50, 6), torch.arange(50) % 9
    val = Features(x.numpy(), y.numpy(), tuple("abcdefghi"))
    found = evaluate(fc, val.chunks(7), val.labels, torch.device("cpu"))
    logits = fc(x)
    assert found["acc1"] == pytest.approx(100 * (logits.argmax(1) == y).double().mean().item())
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert found["acc5"] == pytest.approx(evaluate(fc, [x], val.labels, torch.device("cpu"))["acc5"])


def test_tool_arguments_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from linear_eval import main as tool
    from linear_eval import parse

    for words, expected in [
        (["SEED", "1"], ("no", ["SEED", "1"])),
        (["--resume", "auto", "SEED", "1"], ("auto", ["SEED", "1"])),
        (["--resume", "SEED", "1"], ("yes", ["SEED", "1"])),
    ]:
        arguments = parse(["--config-file", "x.yaml", *words])
        assert (arguments.resume, arguments.opts) == expected
    tiny = ["--config-file", str(CONFIGS / "lincls_tiny.yaml"), "OUTPUT_DIR", str(tmp_path)]
    assert status(tool, [*tiny, "DATA.TRIAN", "x"]) == 2
    assert "error: command line: unknown key 'DATA.TRIAN'; did you mean DATA.TRAIN" in capsys.readouterr().err


def test_features_of_validation_are_reused(
    finished: tuple[CfgNode, RunResult], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = finished[0]
    (Path(cfg.OUTPUT_DIR) / "result.json").rename(Path(cfg.OUTPUT_DIR) / "kept.json")
    try:
        before = os.stat(Path(cfg.OUTPUT_DIR) / "features" / "val.features.npy").st_mtime_ns
        monkeypatch.setattr(lincls, "environment", lambda computed_on: {})
        again = main(cfg, resume="yes")  # killed after the last checkpoint, before the result
        assert os.stat(Path(cfg.OUTPUT_DIR) / "features" / "val.features.npy").st_mtime_ns == before
        assert again.metrics == finished[1].metrics
    finally:
        (Path(cfg.OUTPUT_DIR) / "kept.json").rename(Path(cfg.OUTPUT_DIR) / "result.json")
