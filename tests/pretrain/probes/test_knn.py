"""kNN against naive loops; as a tool; and in the middle of training, where it must change nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.data.decode import BadImageError
from pretrain.data.labelled import central_view, find_labelled, find_pair
from pretrain.encoders import base_encoder
from pretrain.probes.features import Features, extract
from pretrain.probes.knn import KnnProbe, accuracy, main, nearest, vote
from pretrain.probes.trunk import FrozenTrunk, fingerprint, load_trunk
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import RunResult
from tests.pretrain.checkpoints import trained_resnet18, trunk_of, write
from tests.pretrain.conftest import ROOT
from tests.processes import run_in_processes, run_tool

CPU = torch.device("cpu")


def clusters(count: int, seed: int, classes: int = 7, noise: float = 3.0) -> Features:
    """Points around `classes` centres, lengths anywhere between 0.1 and 10."""
    centres = np.random.default_rng(0).normal(size=(classes, 12))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    points = (centres[labels] + noise * rng.normal(size=(count, 12))) * rng.uniform(0.1, 10, (count, 1))
    return Features(points.astype(np.float32), labels, tuple(f"class{i}" for i in range(classes)))


def naive(train: Features, val: Features, k: int, T: float) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent, one query, one neighbour and one vote at a time, in double precision."""
    right = [0, 0]
    for query, label in zip(val.features.astype(np.float64), val.labels, strict=True):
        similar = []
        for row, other in zip(train.features.astype(np.float64), train.labels, strict=True):
            similar.append((float(query @ row) / math.sqrt(query @ query) / math.sqrt(row @ row), int(other)))
        votes: dict[int, float] = {}
        for similarity, other in sorted(similar, reverse=True)[:k]:
            votes[other] = votes.get(other, 0) + math.exp((similarity - 1) / T)
        ranking = sorted(votes, key=lambda c: -votes[c])
        right[0] += int(label) in ranking[:1]
        right[1] += int(label) in ranking[:5]
    return 100 * right[0] / len(val), 100 * right[1] / len(val)


@pytest.mark.parametrize("k, T", [(1, 0.07), (20, 0.07), (20, 1.0), (90, 0.05)])
def test_accuracy_against_a_naive_loop(k: int, T: float) -> None:
    train, val = clusters(90, 1), clusters(40, 2)
    found = accuracy(train, val, k=k, T=T, device=CPU)
    assert (found["knn/acc1"], found["knn/acc5"]) == pytest.approx(naive(train, val, k, T))
    assert found["knn/acc1"] < found["knn/acc5"] or k == 1


@pytest.mark.parametrize("query_chunk, bank_chunk", [(1024, 32768), (7, 13), (1, 1), (40, 5)])
def test_chunks_change_nothing(query_chunk: int, bank_chunk: int) -> None:
    train, val = clusters(90, 1), clusters(40, 2)
    similarities, rows = nearest(
        *(val.rows, len(val), train.rows, len(train), 20),
        device=CPU,
        query_chunk=query_chunk,
        bank_chunk=bank_chunk,
    )
    normalise = torch.nn.functional.normalize
    everything = normalise(val.rows(slice(None))) @ normalise(train.rows(slice(None))).T
    expected, order = everything.topk(20, dim=1)
    torch.testing.assert_close(similarities, expected)
    assert torch.equal(rows, order)


def test_vote_against_a_loop() -> None:
    similarities = torch.tensor([[0.9, 0.8, 0.8], [0.5, 0.4, -1.0]])
    scores = vote(similarities, torch.tensor([[2, 0, 0], [1, 1, 3]]), 4, T=0.1)
    for row, (a, b, c, d) in zip(
        scores, [(2 * math.exp(8), 0, math.exp(9), 0), (0, math.exp(5) + math.exp(4), 0, math.exp(-10))], strict=True
    ):
        expected = torch.tensor([a, b, c, d]) / (a + b + c + d)
        torch.testing.assert_close(row, expected.float())
    assert torch.isfinite(vote(similarities, torch.zeros(2, 3, dtype=torch.long), 1, T=1e-4)).all()


def test_a_class_without_votes_is_not_among_the_top_5() -> None:
    train, val = clusters(30, 1, classes=3), clusters(20, 2, classes=3)
    three = Features(train.features, np.zeros_like(train.labels), val.classes)  # nobody votes for 1 and 2
    found = accuracy(three, val, k=5, device=CPU)
    assert found["knn/acc1"] == found["knn/acc5"] == pytest.approx(100 * np.mean(val.labels == 0))


def test_numbers_that_cannot_be() -> None:
    train, val = clusters(9, 1), clusters(4, 2)
    for k in (0, 10):
        with pytest.raises(ConfigError, match=f"k is {k}, but there are 9 training images; take 1 to 9"):
            accuracy(train, val, k=k, device=CPU)
    for T in (0.0, math.nan):
        with pytest.raises(ConfigError, match="temperature of the vote is .* above 0"):
            accuracy(train, val, k=2, T=T, device=CPU)


def probe_of(generated: Path, folder: Path) -> KnnProbe:
    sets = find_pair(generated / "iconic" / "train", generated / "iconic" / "val")
    return KnnProbe(*sets, central_view(36, 32), folder, batch_size=5, num_workers=0, device=CPU, k=4)


def step(encoder: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    loss = encoder(torch.randn(4, 3, 32, 32)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_training_does_not_notice(generated: Path, tmp_path: Path) -> None:
    losses, scores = [], []
    for watched in (False, True):
        torch.manual_seed(0)
        encoder = base_encoder("resnet18", bn_groups=2)(num_classes=4)
        optimizer = torch.optim.SGD(encoder.parameters(), 0.01, momentum=0.9)
        seen = []
        for _ in range(3):
            seen.append(step(encoder, optimizer))
            if watched:
                scores.append(probe_of(generated, tmp_path)(encoder))
        losses.append((torch.stack(seen), fingerprint(encoder)))
    assert torch.equal(losses[0][0], losses[1][0]) and losses[0][1] == losses[1][1]
    assert all(0 <= s["knn/acc1"] <= s["knn/acc5"] <= 100 for s in scores)


def in_each_process(generated: Path, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = base_encoder("resnet18")(num_classes=4)
    torch.manual_seed(dist.rank())
    encoder(torch.randn(4, 3, 32, 32))  # BN statistics of the processes now differ
    own = fingerprint(encoder)
    scores = probe_of(generated, folder)(encoder)
    split = accuracy(clusters(90, 1), clusters(41, 2), k=20, device=CPU)
    few = accuracy(clusters(90, 1), clusters(1, 2), k=20, device=CPU)  # the second process has no query
    return {"scores": scores, "split": split, "few": few, "kept": fingerprint(encoder) == own}


def test_two_processes_equal_one(generated: Path, tmp_path: Path) -> None:
    first, second = run_in_processes(in_each_process, tmp_path, generated, tmp_path / "two")
    assert first == second and first["kept"]
    one = in_each_process(generated, tmp_path / "one")
    assert one["split"] == first["split"] and one["few"] == first["few"] and one["scores"] == first["scores"]


def test_tool(generated: Path, tmp_path: Path) -> None:
    weights = write(tmp_path / "moco.pth.tar")
    command = [ROOT / "tools" / "knn_eval.py", str(weights), "--output-dir", str(tmp_path / "out")]
    command += ["--train", str(generated / "iconic/train"), "--val", str(generated / "iconic/val"), "--device", "cpu"]
    command += ["--crop-size", "32", "--resize", "36", "--num-workers", "0"]
    done = run_tool(*command, "-k", "4")
    assert done.returncode == 0, done.stderr
    result = RunResult.load(tmp_path / "out")
    assert result.kind == "knn" and result.weights_sha256 and result.extra["arch"] == "resnet18"
    assert done.stdout.startswith(f"top-1 {result.metrics['knn/acc1']:.2f}  top-5 ")

    options = {"resize": 36, "crop_size": 32, "num_workers": 0, "device_name": "cpu", "k": 4}
    sets = generated / "iconic" / "train", generated / "iconic" / "val"
    again = main(weights, *sets, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert again.metrics == result.metrics and again.config_digest == result.config_digest
    encoder = trained_resnet18()
    assert trunk_of(encoder) and probe_of(generated, tmp_path / "probe")(encoder) == result.metrics
    meta = json.loads((tmp_path / "out" / "features" / "train.json").read_text())
    assert meta["trunk_sha256"] == result.extra["trunk_sha256"] and meta["count"] == 16

    done = run_tool(*command, "-k", "17")
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        "error: k is 17, but there are 16 training images; take 1 to 16"
    )


@pytest.mark.parametrize("opts", [{}, {"crop_size": 24}])
def test_the_size_is_the_checkpoints(opts: dict[str, int], generated: Path, tmp_path: Path) -> None:
    weights = write(tmp_path / "moco.pth.tar")
    checkpoint.save(checkpoint.load(weights) | {"config": {"AUG": {"CROP_SIZE": 32}}}, weights)
    sets = generated / "iconic" / "train", generated / "iconic" / "val"
    result = main(weights, *sets, tmp_path / "out", k=4, num_workers=0, device_name="cpu", **opts)
    said = "central 24 pixels of images resized to 27: as asked for"
    if not opts:
        said = "central 32 pixels of images resized to 37: the size that the checkpoint was trained at (AUG.CROP_SIZE)"
        found = [extract_here(weights, folder, tmp_path / "other") for folder in sets]
        assert accuracy(*found, k=4, device=CPU) == result.metrics
    assert said in result.notes


def test_a_crop_that_shows_little_is_said(generated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = generated / "iconic" / "train", generated / "iconic" / "val"
    sizes = {"resize": 256, "crop_size": 32}
    result = main(write(tmp_path / "w"), *sets, tmp_path / "o", k=4, num_workers=0, device_name="cpu", **sizes)  # type: ignore[arg-type]
    (line,) = (line for line in caplog.messages if "central crop of 32 pixels shows 12%" in line)
    assert line in result.notes


def extract_here(weights: Path, folder: Path, output: Path) -> Features:
    """Features at 32 of 37 pixels."""
    images = find_labelled(folder, "DATA.VAL")
    trunk = FrozenTrunk(load_trunk(weights)[0])
    how = {"trunk_sha256": trunk.sha256, "batch_size": 8, "num_workers": 0, "device": CPU}
    return extract(trunk, images, central_view(37, 32), output, folder.name, **how)  # type: ignore[arg-type]


def test_main_refuses(generated: Path, tmp_path: Path) -> None:
    weights, train = write(tmp_path / "moco.pth.tar"), generated / "iconic" / "train"
    with pytest.raises(ConfigError, match="the crop is 0; it must be at least 1"):
        main(weights, train, train, tmp_path, crop_size=0)
    bad = tmp_path / "val"
    for name in find_pair(train, train)[0].classes:
        (bad / name).mkdir(parents=True)
        (bad / name / "a.jpg").write_text("not an image")
    with pytest.raises(BadImageError, match="cannot read image"):
        main(weights, train, bad, tmp_path, k=2, crop_size=32, resize=36, num_workers=0, device_name="cpu")
