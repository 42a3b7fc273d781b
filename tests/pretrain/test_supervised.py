"""Supervised pre-training: against a plain loop in float64, one process and two; its labels; what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.build import build_dataset, data_parallel, mechanism
from pretrain.config import check
from pretrain.data.labelled import find_labelled
from pretrain.data.views import collate
from pretrain.loop import train_step
from pretrain.mechanisms.supervised import Supervised
from pretrain.probes.trunk import load_trunk
from pretrain.run import main
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import read_metrics
from tests.pretrain.conftest import NARROW, MakeCfg, write_images
from tests.pretrain.test_mechanisms import SGD, B, Encoder, assert_equal, contiguous, views
from tests.processes import run_in_processes
from transfer.convert.convert import convert, take

CLASSES, STEPS = 3, 3
SUPERVISED = ("MODEL.MECHANISM", "supervised", "MODEL.SHUFFLE_BN", False, "MODEL.BN_GROUPS", 1)


def labels(step: int) -> Tensor:
    return torch.randint(CLASSES, (B,), generator=torch.Generator().manual_seed(step))


def make() -> Supervised:
    torch.manual_seed(0)
    return Supervised(Encoder, CLASSES).double()


def ours(parts: int = 1) -> dict[str, Any]:
    """Losses, accuracies, gradients and end state of some steps, in the current processes."""
    model = make()
    parallel, optimizer = data_parallel(model, torch.device("cpu")), SGD(model.parameters())
    mine = slice(dist.rank() * B // dist.world_size(), (dist.rank() + 1) * B // dist.world_size())
    losses, right, gradients = [], [], []
    for step in range(STEPS):
        loss, scalars = train_step(parallel, optimizer, views(step)[0][mine], labels(step)[mine], parts=parts)
        losses.append(loss)
        right.append(scalars["acc1"])
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    found = {"losses": torch.stack(losses), "right": torch.stack(right)}
    return {**found, "gradients": gradients, "state": model.state_dict()}


def plain(groups: int) -> dict[str, Any]:
    """The same image by image, with the batch statistics of so many parts of the batch."""
    model = make()
    optimizer = SGD(model.parameters())
    losses, right, gradients = [], [], []
    for step in range(STEPS):
        images, loss, hits = views(step)[0], torch.zeros((), dtype=torch.float64), 0
        for subset in contiguous(torch.arange(B), groups):
            for scores, label in zip(model.encoder_q(images[subset]), labels(step)[subset].tolist(), strict=True):
                loss = loss - (scores[label].exp() / scores.exp().sum()).log() / B
                hits += max(range(CLASSES), key=scores.tolist().__getitem__) == label
        optimizer.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        losses.append(loss.detach())
        right.append(100 * hits / B)
    found = {"losses": torch.stack(losses), "right": torch.tensor(right)}
    return {**found, "gradients": gradients, "state": model.state_dict()}


@pytest.mark.parametrize("parts", [1, 2])
def test_steps_equal_a_plain_loop(parts: int) -> None:
    found, want = ours(parts), plain(parts)
    assert_equal(found, want)
    torch.testing.assert_close(found["right"], want["right"])
    assert 0 < want["right"].sum() < 300


def test_two_processes_equal_a_plain_loop(tmp_path: Path) -> None:
    results = run_in_processes(ours, tmp_path)
    mean = {**results[0], "losses": torch.stack([r["losses"] for r in results]).mean(0)}
    assert_equal(mean, plain(2))
    torch.testing.assert_close(torch.stack([r["right"] for r in results]).mean(0), plain(2)["right"])


def test_a_label_stays_with_its_image_and_a_replacement_brings_its_own(make_cfg: MakeCfg, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", 12, subfolders=3)
    (folder / "class1" / "004.jpg").write_text("no image")
    cfg = make_cfg(folder, tmp_path, *SUPERVISED, "DATA.ON_BAD_IMAGE", "skip")
    files = mechanism(cfg).images(cfg)
    dataset = build_dataset(cfg, files)
    batch = collate([dataset[(0, index)] for index in range(12)])
    im, found = batch.query_and_key()
    assert im.shape == (12, 3, 32, 32) and len(batch.bad) == 1 and batch.numbers is not None
    assert [f"class{label}" for label in found.tolist()] == [Path(files.name(i)).parent.name for i in batch.numbers]
    assert [n for i, n in enumerate(batch.numbers.tolist()) if n != i] == [batch.numbers[5].item()]  # 004 is the sixth


@pytest.fixture(scope="module")
def finished(images: Path, make_cfg: MakeCfg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supervised") / "run"
    knn = ("KNN.PERIOD", 1, "KNN.TRAIN", images, "KNN.VAL", images, "KNN.K", 5, "KNN.RESIZE", 36)
    result = main(make_cfg(images, folder, *SUPERVISED, "AUG.RECIPE", "supervised", "SOLVER.EPOCHS", 1, *knn))
    assert result.extra["classes"] == 3 and result.extra["mechanism"] == "supervised"
    assert any(note.startswith("supervised: acc1 (percent) is that of telling the class") for note in result.notes)
    scores = [line for line in read_metrics(folder / "metrics.jsonl") if "knn/acc1" in line]
    assert [line["iteration"] for line in scores] == [0, 9]  # of the untrained trunk, and after the only epoch
    assert scores[0]["knn/acc1"] != scores[1]["knn/acc1"]
    return folder


def test_the_trunk_converts_and_is_read_like_others(finished: Path, tmp_path: Path) -> None:
    path = finished / "checkpoint_last.pth.tar"
    state = checkpoint.load(path)["state_dict"]
    assert state["module.encoder_q.fc.weight"].shape == (3, 256)
    done = convert(path, tmp_path / "trunk.pkl")
    assert sorted(done.dropped) == ["module.encoder_q.fc.bias", "module.encoder_q.fc.weight"]
    assert torch.equal(
        take(tmp_path / "trunk.pkl").tensors["stem.conv1.weight"], state["module.encoder_q.conv1.weight"]
    )
    network, arch = load_trunk(path)
    assert arch == NARROW and torch.equal(network.conv1.weight, state["module.encoder_q.conv1.weight"])
    assert '"knn/acc1"' in (finished / "metrics.jsonl").read_text()


def test_labels_that_cannot_be_read_are_refused(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(str(images / "class0" / "000.jpg"))
    one = write_images(tmp_path / "one", 9)
    halves = tmp_path / "halves"
    for name in ("train", "val"):
        write_images(halves / name, 9, subfolders=3)
    for data, message in {
        tmp_path / "list.txt": "line 1: .* has no label; write `path label`",
        write_images(
            tmp_path / "flat", 9, subfolders=0
        ): "must hold a folder of images per class, but it holds no folder",
        one: "holds one class, 'class0', which leaves MODEL.MECHANISM supervised nothing to tell apart",
        halves: "holds train and val, which are no classes; give one of them",
    }.items():
        with pytest.raises(ConfigError, match=message):
            main(make_cfg(data, tmp_path / "run", *SUPERVISED))
    assert not (tmp_path / "run").exists()


def test_keys_that_contradict_it(images: Path, make_cfg: MakeCfg) -> None:
    refused = partial(pytest.raises, ConfigError)
    with refused(
        match="MODEL.SHUFFLE_BN has no effect on the supervised mechanism, which has no keys; set it to False"
    ):
        check(make_cfg(images, Path("unused"), "MODEL.MECHANISM", "supervised"))
    check(make_cfg(images, Path("unused"), *SUPERVISED, "SOLVER.ACCUMULATE", 2))


def test_another_class_name_is_another_set(images: Path, tmp_path: Path) -> None:
    copy = write_images(tmp_path / "copy", 80, subfolders=3)
    assert find_labelled(copy, "DATA.TRAIN").digest() == find_labelled(images, "DATA.TRAIN").digest()
    (copy / "class1").rename(copy / "other")
    assert find_labelled(copy, "DATA.TRAIN").digest() != find_labelled(images, "DATA.TRAIN").digest()
