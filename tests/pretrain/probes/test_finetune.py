"""Fine-tuning: a free trunk against plain loops, one process and two; exactly resumable; from scratch; converted."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.amp import GradScaler

from pretrain.build import data_parallel
from pretrain.data.augment import OneCrop
from pretrain.data.decode import BadImageError
from pretrain.data.labelled import augmented_view, central_view, find_labelled
from pretrain.data.views import TrainingBatches, ViewDataset
from pretrain.encoders import base_encoder
from pretrain.loop import train_step
from pretrain.probes import classifier_checkpoint
from pretrain.probes.classifier import Classifier
from pretrain.probes.config import load_lincls
from pretrain.probes.lincls import main
from pretrain.probes.trunk import FreeTrunk, FrozenTrunk, evaluating, load_trunk
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import read_metrics
from pretrain.runtime.result import RunResult
from pretrain.runtime.seed import seed_everything
from tests.pretrain.probes.test_lincls import CONFIGS, last, options, scalars
from tests.pretrain.test_mechanisms import SGD, B, Encoder, assert_equal, contiguous, views
from tests.pretrain.test_supervised import CLASSES, STEPS, labels
from tests.processes import run_in_processes
from transfer.convert.convert import convert, take

ARCH = "resnet50_w0.25x"
FREE = ("MODEL.TRUNK", "free", "AUG.TRAIN", True, "SOLVER.BASE_LR", 0.02, "SOLVER.WEIGHT_DECAY", 1e-4)
FREE = (*FREE, "SOLVER.BATCH_SIZE", 8, "SOLVER.EPOCHS", 2, "SOLVER.STEPS", (1,))


def config(words: list[str]) -> CfgNode:
    """4 iterations: 2 epochs of 2 batches of 8 images of 32 pixels, the rate falling after the first."""
    return load_lincls(CONFIGS / "lincls_tiny.yaml", words, "free")


def pretrained() -> nn.Module:
    """Random weights, and BN statistics and scales that are not those of a new network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = base_encoder(ARCH)(num_classes=8)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
                nn.init.uniform_(module.weight, 0.8, 1.2)
    return network


def write(path: Path, network: nn.Module) -> Path:
    state = {f"module.encoder_q.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save({"arch": ARCH, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("weights") / "moco.pth.tar", pretrained())


@pytest.fixture(scope="module")
def finished(generated: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CfgNode, RunResult]:
    """Nothing interrupted it."""
    cfg = config(options(generated, weights, tmp_path_factory.mktemp("finished") / "run", *FREE))
    return cfg, main(cfg)


def images_of(cfg: CfgNode, name: str, pairs: list[tuple[int, int]], view: Any) -> tuple[Tensor, Tensor]:
    data = find_labelled(cfg.DATA[name], "")
    dataset = ViewDataset(data.files, OneCrop(view), cfg.SEED)
    stacked = torch.stack([dataset[pair].views[0] for pair in pairs])  # type: ignore[index]
    return stacked, torch.tensor([int(data.labels[index]) for _, index in pairs])


def plain(cfg: CfgNode, network: nn.Module) -> nn.Module:
    """The recipe on a whole ResNet, spelled out: all in training mode, SGD over all parameters."""
    data = find_labelled(cfg.DATA.TRAIN, "")
    network.fc = Classifier(FreeTrunk(base_encoder(ARCH)()), len(data.classes), cfg.SEED).fc
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)
    network.train()
    for i, pairs in enumerate(TrainingBatches(len(data), 8, cfg.SOLVER.EPOCHS, cfg.SEED)):
        optimizer.param_groups[0]["lr"] = 0.02 * 0.1 ** (i // 2)
        images, truth = images_of(cfg, "TRAIN", pairs, augmented_view(32))
        loss = F.cross_entropy(network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def validated(network: nn.Module, cfg: CfgNode) -> dict[str, float]:
    """Scores in eval mode, image by image."""
    count = len(find_labelled(cfg.DATA.VAL, ""))
    images, truth = images_of(cfg, "VAL", [(0, i) for i in range(count)], central_view(36, 32))
    with torch.no_grad():
        scores = torch.stack([network.eval()(image.unsqueeze(0))[0] for image in images])
    ranks = [int((row > row[label]).sum()) for row, label in zip(scores, truth, strict=True)]
    loss = F.cross_entropy(scores, truth).item()
    return {
        "acc1": 100 * sum(r < 1 for r in ranks) / count,
        "acc5": 100 * sum(r < 5 for r in ranks) / count,
        "loss": loss,
    }


def whole(saved: dict[str, Any]) -> nn.Module:
    """The ResNet of a checkpoint, which has all its names."""
    network = base_encoder(ARCH)(num_classes=len(saved["state_dict"]["module.fc.bias"]))
    network.load_state_dict({name.removeprefix("module."): value for name, value in saved["state_dict"].items()})
    return network


def assert_scores(metrics: dict[str, float], want: dict[str, float]) -> None:
    assert (metrics["acc1"], metrics["acc5"]) == (want["acc1"], want["acc5"])
    assert metrics["val_loss"] == pytest.approx(want["loss"], rel=1e-4)


def test_equal_to_a_plain_loop(finished: tuple[CfgNode, RunResult], weights: Path) -> None:
    cfg, result = finished
    saved, network = last(cfg), plain(cfg, pretrained())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(saved["state_dict"][f"module.{name}"], value, rtol=1e-4, atol=1e-5)
    assert_scores(result.metrics, validated(network, cfg))
    start = pretrained().state_dict()
    moved = [name for name, value in start.items() if not torch.equal(saved["state_dict"]["module." + name], value)]
    assert sorted(moved) == sorted(start)  # every weight, and BN's statistics
    assert (saved["epoch"], saved["arch"], saved["scaler"]) == (2, ARCH, {})
    torch.optim.SGD(network.parameters(), 1.0).load_state_dict(saved["optimizer"])  # knows all of it, in this order
    assert (result.kind, result.iterations, result.weights_sha256) == ("finetune", 4, checkpoint.sha256(weights))
    assert "features" not in result.artifacts and not (Path(cfg.OUTPUT_DIR) / "features").exists()


def test_every_epoch_is_validated_once(finished: tuple[CfgNode, RunResult]) -> None:
    cfg, result = finished
    found = [line for line in scalars(cfg) if "val/acc1" in line]
    assert [line["iteration"] for line in found] == [1, 3]
    assert result.metrics["acc1"] == found[-1]["val/acc1"]
    assert result.metrics["best_acc1"] == max(line["val/acc1"] for line in found)
    assert [line["lr"] for line in scalars(cfg) if "lr" in line] == pytest.approx([0.02] * 2 + [0.002] * 2)


def test_reads_and_converts_like_other_checkpoints(finished: tuple[CfgNode, RunResult], tmp_path: Path) -> None:
    path = Path(finished[0].OUTPUT_DIR) / "checkpoint_last.pth.tar"
    state = checkpoint.load(path)["state_dict"]
    network, arch = load_trunk(path)
    assert arch == ARCH and torch.equal(network.get_parameter("conv1.weight"), state["module.conv1.weight"])
    convert(path, tmp_path / "trunk.pkl")
    assert torch.equal(take(tmp_path / "trunk.pkl").tensors["stem.conv1.weight"], state["module.conv1.weight"])


def test_from_scratch_every_tensor_is_the_seeds(generated: Path, tmp_path: Path) -> None:
    words = options(generated, Path("''"), tmp_path / "run", *FREE, "MODEL.ARCH", ARCH, "SOLVER.EPOCHS", 1)
    cfg = config(words)
    result = main(cfg)
    seed_everything(cfg.SEED)
    network, saved = plain(cfg, base_encoder(ARCH)(num_classes=1)), last(cfg)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(saved["state_dict"][f"module.{name}"], value, rtol=1e-4, atol=1e-5)
    assert result.weights_sha256 is None and "from scratch: no pre-trained weights" in " ".join(result.notes)
    with pytest.raises(ConfigError, match="MODEL.ARCH 'resnet19' is not known; did you mean"):
        main(config([*words, "MODEL.ARCH", "resnet19", "OUTPUT_DIR", str(tmp_path / "other")]))


class Killed(BaseException):
    """Ends a run where it is raised, as SIGKILL would (that no line of the metrics is lost, `test_lincls` shows)."""


def assert_bit_equal(cfg: CfgNode, other: CfgNode) -> None:
    mine, theirs = last(cfg), last(other)
    assert all(torch.equal(value, mine["state_dict"][name]) for name, value in theirs["state_dict"].items())
    momenta = ([s["momentum_buffer"] for s in saved["optimizer"]["state"].values()] for saved in (mine, theirs))
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    assert mine["scaler"] == theirs["scaler"] and mine["validation"] == theirs["validation"]
    assert scalars(cfg) == scalars(other)


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    finished: tuple[CfgNode, RunResult], generated: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the middle of the epoch whose validation was over and whose checkpoint was not yet written."""
    cfg = config(options(generated, weights, tmp_path / "killed", *FREE, "CHECKPOINT.PERIOD", 3))
    capture = classifier_checkpoint.capture

    def killed(*args: Any) -> dict[str, Any]:
        if args[3].iteration == 4:  # the second epoch is validated, and its line is written
            raise Killed
        return capture(*args)

    monkeypatch.setattr(classifier_checkpoint, "capture", killed)
    with pytest.raises(Killed):
        main(cfg)
    monkeypatch.undo()
    assert last(cfg)["iteration"] == 3 and [s["iteration"] for s in scalars(cfg) if "val/acc1" in s] == [1, 3]
    result = main(cfg, resume="yes")
    assert_bit_equal(cfg, finished[0])
    rates = {"images_per_second"}
    assert {k: v for k, v in result.metrics.items() if k not in rates} == {
        k: v for k, v in finished[1].metrics.items() if k not in rates
    }
    assert main(cfg, resume="auto") == result  # finished: not repeated


def test_the_loss_scaler_is_resumed(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opts = (*FREE, "MODEL.ARCH", ARCH, "SOLVER.AMP", "fp16")
    opts = (*opts, "SOLVER.EPOCHS", 1, "CHECKPOINT.PERIOD", 1, "AUG.CROP_SIZE", 16, "AUG.RESIZE", 18)
    whole_run, cfg = (config(options(generated, Path("''"), tmp_path / name, *opts)) for name in ("whole", "half"))
    save, kept = checkpoint.save, Path(cfg.OUTPUT_DIR) / "checkpoint_last.pth.tar"

    def keep_first(contents: Any, path: Path) -> None:
        save(contents, path)
        if contents["iteration"] == 1:
            save({**contents, "config": contents["config"] | {"OUTPUT_DIR": cfg.OUTPUT_DIR}}, kept)
            (kept.parent / "metrics.jsonl").write_text((path.parent / "metrics.jsonl").read_text())

    monkeypatch.setattr(checkpoint, "save", keep_first)
    main(whole_run)
    monkeypatch.undo()
    assert last(cfg)["scaler"] != GradScaler("cpu").state_dict()  # it has moved
    main(cfg, resume="yes")
    assert_bit_equal(cfg, whole_run)


def test_another_start_is_not_continued(finished: tuple[CfgNode, RunResult], tmp_path: Path) -> None:
    other = pretrained()
    other.get_parameter("conv1.weight").data += 1
    cfg = finished[0].clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(write(tmp_path / "other", other))
    with pytest.raises(ConfigError, match="belongs to another run: MODEL.WEIGHTS holds another trunk"):
        main(cfg, resume="auto")
    saved = last(finished[0])
    del saved["state_dict"]["module.layer1.0.conv1.weight"]
    cfg = finished[0].clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path / "broken")
    checkpoint.save(saved, tmp_path / "broken" / "checkpoint_last.pth.tar")
    with pytest.raises(checkpoint.CheckpointError, match="is not whole: .*layer1.0.conv1.weight"):
        main(cfg, resume="yes")


def make() -> Classifier:
    torch.manual_seed(0)
    return Classifier(FreeTrunk(Encoder(1)), CLASSES).double()


def ours(words: list[str] | None = None) -> dict[str, Any]:
    """Losses, gradients and end state of some steps in float64; then a whole run, if its words are given."""
    model = make()
    parallel, optimizer = data_parallel(model, torch.device("cpu")), SGD(model.trained())
    mine = slice(dist.rank() * B // dist.world_size(), (dist.rank() + 1) * B // dist.world_size())
    losses, gradients = [], []
    for step in range(STEPS):
        losses.append(train_step(parallel, optimizer, views(step)[0][mine], labels(step)[mine])[0])
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    own = [buffer.clone() for buffer in model.buffers()]
    with evaluating(model):
        inside = [buffer.clone() for buffer in model.buffers()]
        assert not any(module.training for module in model.modules())
    assert all(map(torch.equal, own, model.buffers())) and all(module.training for module in model.modules())
    if words is not None:
        main(config(words))
    found = {"losses": torch.stack(losses), "gradients": gradients, "state": model.state_dict()}
    return {**found, "own": own, "inside": inside}


def by_hand(groups: int) -> dict[str, Any]:
    """The same with the batch statistics of so many parts of the batch, in one process."""
    model = make()
    network, optimizer = model.trunk.network, SGD([*model.trunk.network.parameters(), *model.fc.parameters()])
    losses, gradients = [], []
    for step in range(STEPS):
        images, logits = views(step)[0], []
        for subset in contiguous(torch.arange(B), groups):
            logits.append(network(images[subset]) @ model.fc.weight.T + model.fc.bias)
        scores = torch.cat(logits)
        loss = (scores.logsumexp(1) - scores[torch.arange(B), labels(step)]).mean()
        optimizer.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "gradients": gradients, "state": model.state_dict()}


def test_steps_equal_plain_ones() -> None:
    assert_equal(ours(), by_hand(1))


def test_two_processes_equal_plain_steps_and_validate_what_is_saved(
    generated: Path, weights: Path, tmp_path: Path
) -> None:
    words = options(generated, weights, tmp_path / "run", *FREE, "SOLVER.EPOCHS", 1)
    results = run_in_processes(ours, tmp_path, words)
    mean = {**results[0], "losses": torch.stack([r["losses"] for r in results]).mean(0)}
    assert_equal(mean, by_hand(2))
    first, second = results
    assert not all(map(torch.equal, first["own"], second["own"]))  # each has seen other images
    assert all(map(torch.equal, first["own"], second["inside"]))
    cfg = config(words)
    assert_scores(RunResult.load(tmp_path / "run").metrics, validated(whole(last(cfg)), cfg))


def test_a_frozen_trunk_gets_no_gradient_and_a_free_one_all_of_it() -> None:
    for kind, count in ((FrozenTrunk, 2), (FreeTrunk, 161)):
        model = Classifier(kind(base_encoder(ARCH)()), 4)
        model.train()
        loss, _ = train_step(model, SGD(model.trained()), torch.randn(2, 3, 32, 32), torch.tensor([0, 3]))
        assert math.isfinite(loss) and len(model.trained()) == count
        assert sum(p.grad is not None for p in model.parameters()) == count
        assert model.get_submodule("trunk.network.bn1").training == (kind is FreeTrunk)


def test_a_broken_validation_image_ends_the_run_before_training(generated: Path, weights: Path, tmp_path: Path) -> None:
    """Not after the first epoch, which on ImageNet takes an hour."""
    shutil.copytree(generated / "iconic" / "val", tmp_path / "val")
    broken = sorted((tmp_path / "val").rglob("*.jpg"))[-1]
    broken.write_text("no image")
    cfg = config([*options(generated, weights, tmp_path / "run", *FREE), "DATA.VAL", str(tmp_path / "val")])
    with pytest.raises(BadImageError, match=f"cannot read image '{broken}'.*; remove or replace it"):
        main(cfg)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == []
    assert not (tmp_path / "run" / "checkpoint_last.pth.tar").exists()
