"""Index maps of VOC, SBD and Cityscapes on trees of a few made-up images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.transfer.data.sets import picture
from transfer.data import catalog
from transfer.data.dataset import open_dataset
from transfer.data.image_files import check_images
from transfer.data.index_maps import prepare_cityscapes, prepare_voc_aug
from transfer.data.label_maps import read_labels
from transfer.data.semantic_sets import CITYSCAPES_CLASSES, CITYSCAPES_IDS
from transfer.data.spec import DatasetError

PALETTE = [v for i in range(256) for v in (i * 7 % 256, i * 13 % 256, i * 29 % 256)]


def palette(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(PALETTE)
    image.save(path)


def ids_of(stem: str) -> np.ndarray:
    found = np.random.default_rng(len(stem) + ord(stem[-1])).integers(0, 21, (30, 40)).astype(np.uint8)
    found[0] = 255
    return found


def lines(path: Path, *stems: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


@pytest.fixture
def voc(tmp_path):
    """VOC trains on a, validates on v; SBD annotates a, b and v."""
    root = tmp_path / "VOC2012"
    for stem in "abv":
        picture(root / "JPEGImages" / f"{stem}.jpg")
    for stem in "av":
        palette(root / "SegmentationClass" / f"{stem}.png", ids_of(stem))
    lines(root / "ImageSets/Segmentation/train.txt", "a")
    lines(root / "ImageSets/Segmentation/val.txt", "v")
    lines(tmp_path / "benchmark_RELEASE/dataset/train.txt", "a", "v")
    lines(tmp_path / "benchmark_RELEASE/dataset/val.txt", "b")
    return root


@pytest.fixture
def sbd(tmp_path, voc):
    folder = tmp_path / "benchmark_RELEASE"
    (folder / "dataset/cls").mkdir()
    for stem in "abv":
        savemat(folder / f"dataset/cls/{stem}.mat", {"GTcls": {"Segmentation": ids_of(stem)}})
    return folder


def test_voc_and_sbd(voc, sbd, tmp_path):
    assert prepare_voc_aug(voc, sbd, expected=2) == (2, 1)
    specs = catalog.builtin_specs(tmp_path)
    sets = [open_dataset(specs[f"voc_2012_sem_seg_{split}"]) for split in ("train_aug", "val")]
    check_images(sets)
    assert [r["image_id"] for dataset in sets for r in dataset.records] == ["a", "b", "v"]
    for record in (r for dataset in sets for r in dataset.records):
        assert np.array_equal(read_labels(record["sem_seg_file_name"]), ids_of(record["image_id"]))


def test_what_is_there_is_not_made_again(voc, sbd):
    prepare_voc_aug(voc, sbd, expected=2)
    before = {p.name: p.stat().st_mtime_ns for p in (voc / "SegmentationClassAug").iterdir()}
    (voc / "SegmentationClassAug/b.png").unlink()
    prepare_voc_aug(voc, sbd, expected=2)
    after = {p.name: p.stat().st_mtime_ns for p in (voc / "SegmentationClassAug").iterdir()}
    assert before.keys() == after.keys() and {n for n in before if before[n] != after[n]} == {"b.png"}


def test_another_number_of_images_is_refused_before_anything_is_written(voc, sbd):
    with pytest.raises(DatasetError, match="give 2 images of train_aug, not 10582"):
        prepare_voc_aug(voc, sbd)
    assert not (voc / "SegmentationClassAug").exists()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda voc, sbd: (sbd / "dataset/train.txt").unlink(), "train.txt' does not exist"),
        (lambda voc, sbd: (voc / "SegmentationClass/a.png").unlink(), "1 files are not there: .*a.png"),
        (lambda voc, sbd: (sbd / "dataset/cls/b.mat").unlink(), "1 files are not there: .*b.mat"),
        (lambda voc, sbd: (sbd / "dataset/cls/b.mat").write_bytes(b"no"), "cannot read SBD's .*b.mat"),
        (lambda voc, sbd: Image.new("RGB", (4, 4)).save(voc / "SegmentationClass/a.png"), "a PNG of mode RGB"),
        (lambda voc, sbd: (voc / "SegmentationClass/a.png").write_bytes(b"no"), "cannot read"),
        (lambda voc, sbd: palette(voc / "SegmentationClass/a.png", np.full((4, 4), 21)), "that are no class: 21"),
    ],
)
def test_what_is_wrong_is_said(break_it, words, voc, sbd):
    break_it(voc, sbd)
    with pytest.raises(DatasetError, match=words):
        prepare_voc_aug(voc, sbd, expected=2)
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()


def test_cityscapes(tmp_path):
    root = tmp_path / "cityscapes"
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    for split, stem in (("train", "ulm/ulm_000000_000019"), ("val", "bonn/bonn_000001_000019")):
        picture(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", 17, 2)
        path = root / f"gtFine/{split}/{stem}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(ids).save(path)
    with pytest.raises(DatasetError, match="holds 1 files .*_labelIds.png, not 2975"):
        prepare_cityscapes(root)
    assert prepare_cityscapes(root, expected=(1, 1)) == (1, 1)
    (record,) = open_dataset(catalog.builtin_specs(tmp_path)["cityscapes_fine_sem_seg_val"]).records
    made = read_labels(record["sem_seg_file_name"]).ravel().tolist()
    assert {made[label]: label for label in CITYSCAPES_IDS} == dict(enumerate(CITYSCAPES_IDS))
    assert [made[label] for label in range(34) if label not in CITYSCAPES_IDS] == [255] * 15
    assert len(CITYSCAPES_CLASSES) == len(CITYSCAPES_IDS) == 19
    assert CITYSCAPES_CLASSES[made[26]] == "car" and CITYSCAPES_CLASSES[made[7]] == "road"  # Cityscapes' own ids
