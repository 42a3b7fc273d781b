"""Features on disk: every image once and in order, whatever the batch, the workers and the processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pretrain.data.decode import BadImageError, decode
from pretrain.data.labelled import LabelledImages, central_view, find_labelled
from pretrain.probes import features
from pretrain.probes.features import InOrder, extract, load
from pretrain.runtime import dist
from tests.processes import run_in_processes

VIEW = central_view(40, 32)
CPU = torch.device("cpu")


def thumbnails(images: Tensor) -> Tensor:
    """A trunk without weights: N x 3 x 32 x 32 -> N x 48."""
    return torch.nn.functional.avg_pool2d(images, 8).flatten(1)


@pytest.fixture
def labelled(generated: Path) -> LabelledImages:
    return find_labelled(generated / "iconic" / "train", "DATA.TRAIN")


def expected(images: LabelledImages) -> np.ndarray:
    rows = [thumbnails(VIEW(decode(images.files.read(i), "")).unsqueeze(0)) for i in range(len(images))]
    return torch.cat(rows).numpy()


def made(images: LabelledImages, folder: Path, **changes: Any) -> features.Features:
    options: dict[str, Any] = {"trunk_sha256": "a", "batch_size": 5, "num_workers": 0, "device": CPU, **changes}
    return extract(options.pop("trunk", thumbnails), images, VIEW, folder, "train", **options)


@pytest.mark.parametrize("batch_size, num_workers", [(5, 0), (16, 2), (100, 0)])
def test_rows_are_the_images_in_order(
    batch_size: int, num_workers: int, labelled: LabelledImages, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    found = made(labelled, tmp_path, batch_size=batch_size, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(found.features, np.memmap) and found.features.dtype == np.float32
    assert np.array_equal(found.features, expected(labelled)) and np.array_equal(found.labels, labelled.labels)
    assert found.classes == labelled.classes and len(found) == 16
    assert torch.equal(found.rows([3, 1]), torch.from_numpy(expected(labelled)[[3, 1]]))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("num_images, batch_size, world", [(16, 5, 2), (16, 16, 3), (7, 3, 4), (1, 8, 2), (9, 4, 1)])
def test_shares_of_all_processes_make_up_the_set(num_images: int, batch_size: int, world: int) -> None:
    parts = [list(InOrder(num_images, batch_size, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(InOrder(num_images, batch_size))}
    gathered: list[int] = []
    for batch in zip(*parts, strict=True):
        assert len({len(share) for share in batch}) == 1  # as all_gather needs it
        whole = [index for share in batch for _, index in share]
        gathered += whole[: min(batch_size, num_images - len(gathered))]
    assert gathered == list(range(num_images))


def in_each_process(train: Path, folder: Path) -> dict[str, Any]:
    images = find_labelled(train, "DATA.TRAIN")
    found = made(images, folder, batch_size=7)
    calls: list[int] = []
    made(images, folder, batch_size=7, trunk=lambda x: calls.append(dist.rank()) or thumbnails(x))
    return {"features": torch.from_numpy(np.array(found.features)), "calls": calls}


def test_two_processes(generated: Path, labelled: LabelledImages, tmp_path: Path) -> None:
    results = run_in_processes(in_each_process, tmp_path, generated / "iconic" / "train", tmp_path / "features")
    for result in results:
        assert np.array_equal(result["features"].numpy(), expected(labelled)) and not result["calls"]


def test_made_once_for_the_same_trunk_images_and_view(labelled: LabelledImages, tmp_path: Path) -> None:
    calls = 0

    def counting(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return thumbnails(images)

    for changes, again in [
        ({}, True),
        ({}, False),
        ({"batch_size": 3, "num_workers": 1}, False),
        ({"trunk_sha256": "b"}, True),
        ({"trunk_sha256": "b", "arithmetic": "bf16"}, True),
    ]:
        calls = 0
        made(labelled, tmp_path, trunk=counting, **changes)
        assert bool(calls) == again, changes
    made(labelled.subset(4), tmp_path)
    assert len(load(tmp_path, "train")) == 4


def test_killed_while_writing_leaves_nothing_that_counts(labelled: LabelledImages, tmp_path: Path) -> None:
    made(labelled, tmp_path)

    def dies(images: Tensor) -> Tensor:
        dies.calls += 1  # type: ignore[attr-defined]
        if dies.calls > 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return thumbnails(images)

    dies.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        made(labelled, tmp_path, trunk=dies, trunk_sha256="b")
    with pytest.raises(FileNotFoundError, match="holds no complete features 'train'; extract them"):
        load(tmp_path, "train")
    assert not list(tmp_path.glob(".*"))
    assert len(made(labelled, tmp_path)) == 16


def test_features_of_another_version(labelled: LabelledImages, tmp_path: Path) -> None:
    made(labelled, tmp_path)
    meta = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(meta | {"version": 0}))
    with pytest.raises(ValueError, match="not of this version; delete them"):
        load(tmp_path, "train")


def test_an_image_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (50, 50)).save(tmp_path / "set" / name / "0.jpg")
    (tmp_path / "set" / "b" / "0.jpg").write_text("not an image")
    with pytest.raises(BadImageError, match="cannot read image '.*b/0.jpg' .* remove or replace it"):
        made(find_labelled(tmp_path / "set", "DATA.VAL"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
