"""Labelled images: torchvision's ImageFolder order, the protocol's views, top-k accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from pretrain.data.labelled import augmented_view, central_view, find_labelled, find_pair, top_k_hits
from pretrain.runtime.config import ConfigError


def test_order_and_labels_are_those_of_imagefolder(generated: Path) -> None:
    folder = generated / "iconic" / "train"
    ours, theirs = find_labelled(folder, "DATA.TRAIN"), ImageFolder(str(folder))
    assert [(ours.files.path(i), int(ours.labels[i])) for i in range(len(ours))] == theirs.samples
    assert list(ours.classes) == theirs.classes


def test_digest_is_of_names_and_classes(generated: Path, tmp_path: Path) -> None:
    ours = find_labelled(generated / "iconic" / "train", "DATA.TRAIN")
    (tmp_path / "elsewhere").symlink_to(generated / "iconic" / "train")
    assert find_labelled(tmp_path / "elsewhere", "DATA.TRAIN").digest() == ours.digest()
    assert ours.subset(3).digest() != ours.digest()


def test_subset_is_spread_over_the_classes(generated: Path) -> None:
    ours = find_labelled(generated / "iconic" / "train", "DATA.TRAIN")
    half = ours.subset(len(ours) // 2)
    assert np.array_equal(half.labels, ours.labels[::2]) and half.classes == ours.classes
    assert half.files.path(1) == ours.files.path(2)
    assert ours.subset(0) is ours and ours.subset(10**6) is ours


def test_folders_that_are_no_labelled_set(generated: Path, tmp_path: Path) -> None:
    for folder, message in [
        (tmp_path / "gone", "DATA.VAL '.*gone' does not exist"),
        (tmp_path, "must hold a folder of images per class, but it holds no folder"),
        (generated / "iconic", "iconic. holds train and val, which are no classes; give one of them"),
    ]:
        with pytest.raises(ConfigError, match=message):
            find_pair(generated / "iconic" / "train", folder)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigError, match="per class, but there is none \\(.*\\) in cat: remove"):
        find_labelled(tmp_path, "DATA.TRAIN")


def test_deep_classes_are_in_imagefolders_order(tmp_path: Path) -> None:
    for name in ("b/z.jpg", "b/a/1.jpg", "b/a.jpg", "b/a-b/1.jpg", "a/deep/er/1.jpg", "B/1.JPEG", "flat.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    ours, theirs = find_labelled(tmp_path, "DATA.TRAIN"), ImageFolder(str(tmp_path))
    assert [(ours.files.path(i), int(ours.labels[i])) for i in range(len(ours))] == theirs.samples
    assert list(ours.classes) == theirs.classes and ours.files.notes == ()


def test_what_is_hidden_or_linked_again_is_no_class(
    generated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A class that is a link to elsewhere is one; those of an editor, of an archive and of a loop are not."""
    for folder in sorted((generated / "iconic" / "train").iterdir()):
        (tmp_path / folder.name).symlink_to(folder)
    before = find_labelled(tmp_path, "DATA.TRAIN")
    assert len(before) == len(find_labelled(generated / "iconic" / "train", "DATA.TRAIN")) and not caplog.records
    for name in (".ipynb_checkpoints/1.jpg", "__MACOSX/1.jpg", "._2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "latest").symlink_to(".")
    after = find_labelled(tmp_path, "DATA.TRAIN")
    assert after.classes == before.classes and after.digest() == before.digest()
    assert [r.message for r in caplog.records] == list(after.files.notes) == [
        f"left out of '{tmp_path}', hidden: 3 (._2.jpg, .ipynb_checkpoints, __MACOSX)",
        f"left out of '{tmp_path}', linked folders that are read already: 1 (latest)",
    ]  # fmt: skip
    assert after.subset(3).files.notes == after.files.notes


def test_class_folders_must_be_equal(generated: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save((tmp_path / "zebra").mkdir() or tmp_path / "zebra" / "a.jpg")
    with pytest.raises(ConfigError, match="classes and DATA.VAL 1; only one of them has .* make them equal"):
        find_pair(generated / "iconic" / "train", tmp_path)


def test_views_are_the_protocols() -> None:
    assert [type(t) for t in augmented_view().transforms] == [
        *(T.RandomResizedCrop, T.RandomHorizontalFlip, T.ToTensor, T.Normalize)
    ]
    crop = augmented_view().transforms[0]
    assert crop.size == (224, 224) and crop.scale == T.RandomResizedCrop(224).scale == (0.08, 1.0)
    resize, centre, _, normalise = central_view().transforms
    assert resize.size == 256 and centre.size == (224, 224)
    assert normalise.mean == (0.485, 0.456, 0.406) and normalise.std == (0.229, 0.224, 0.225)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    assert central_view()(image).shape == augmented_view()(image).shape == (3, 224, 224)
    assert torch.equal(central_view()(image), central_view()(image))


def test_top_k_hits_against_a_loop() -> None:
    scores, labels = torch.randn(40, 9, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 9
    for (row, label), hits in zip(zip(scores, labels, strict=True), top_k_hits(scores, labels), strict=True):
        better = sum(bool(score > row[label]) for score in row)
        assert hits.tolist() == [better < 1, better < 5]


def test_top_5_of_three_classes_is_everything() -> None:
    assert top_k_hits(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([0])).tolist() == [[False, True]]
