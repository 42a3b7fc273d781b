"""YOLO's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.errors import ExpectedError
from tests.transfer.data.importers.sources import yolo_source
from tests.transfer.data.sets import picture
from transfer.data.faults import Faults
from transfer.data.importers.importer import Options, Part
from transfer.data.importers.yolo import YOLO


def read(source: Path) -> tuple[list[Part], str]:
    faults = Faults()
    parts = YOLO().read(source, Options(), faults)
    return parts, "\n".join(map(str, faults.problems))


def test_ultralytics_tree_and_numbered_names(tmp_path: Path) -> None:
    """`path`, folders images/train and labels/train, and names by number."""
    for name in ("a.jpg", "deep/b.jpg"):
        picture(tmp_path / "set" / "images" / "train" / name)
    (tmp_path / "set" / "labels" / "train" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "labels" / "train" / "deep" / "b.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("path: set\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n")
    parts, said = read(tmp_path / "data.yaml")
    bare = tmp_path / "set" / "images" / "train" / "a.jpg"
    assert said == f"note: images without a label file, which YOLO takes for images without objects: {bare}"
    assert [(p.split, p.classes) for p in parts] == [("train", ("cat", "dog"))]
    assert [(s.file_name, [x.label for x in s.shapes]) for s in parts[0].sheets] == [
        ("a.jpg", []),
        ("deep/b.jpg", ["dog"]),
    ]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: train/images\n", "`names` is None"),
        ("train: train/images\nnames: {1: cat}\n", "keys of `names` are [1], not 0, 1, 2"),
        ("train: train/images\nnames: [yes, no]\n", "in quotes what YAML reads as something else"),
        ("train: train/images\nnames: [cat]\nkpt_shape: [4, 3]\n", "kpt_shape is [4, 3], so that its labels have"),
        ("names: [cat]\n", "names no folder of images"),
        ("train: [a, b]\nnames: [cat]\n", "train is ['a', 'b']; give one folder"),
        ("train: gone/images\nnames: [cat]\n", "gone/images' of train does not exist"),
        ("train: train\nnames: [cat]\n", "is in no folder called `images`: YOLO's labels lie in `labels` beside it"),
    ],
)
def test_a_wrong_yaml(tmp_path: Path, yaml: str, message: str) -> None:
    source = yolo_source(tmp_path / "set")
    source.write_text(yaml)
    with pytest.raises(ExpectedError) as error:
        read(source)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", "class 3, but there are 3, from 0 on"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("cat 0.5 0.5 0.1 0.1", "are not numbers"),
        ("0 0.5 0.5 0.1", "3 numbers behind the class"),
        ("0 0.5 0.5 0.1 0.1 0.9", "5 numbers behind the class"),
        ("0 0.5 0.5 0.1 0.1 0.9 0.9 0.9", "7 numbers behind the class"),
    ],
)
def test_a_wrong_line(tmp_path: Path, line: str, message: str) -> None:
    source = yolo_source(tmp_path)
    (tmp_path / "train" / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    _, said = read(source)
    assert message in said and "a.txt line 2" in said


def test_labels_have_one_image(tmp_path: Path) -> None:
    """That of the first suffix; the others are noted, instead of being given the same objects."""
    source = yolo_source(tmp_path)
    for name in ("a.png", "none.PNG", "alone.png"):
        picture(tmp_path / "train" / "images" / name)
    parts, said = read(source)
    assert [(s.file_name, len(s.shapes)) for s in parts[0].sheets] == [("a.jpg", 2), ("alone.png", 0), ("none.jpg", 0)]
    folder = tmp_path / "train" / "images"
    assert said.splitlines() == [
        f"note: images that differ from another in the suffix alone, left out [2x]: {folder}/a.png, {folder}/none.PNG",
        "note: images without a label file, which YOLO takes for images without objects [2x]: "
        f"{folder}/alone.png, {folder}/none.jpg",
    ]


def test_labels_without_an_image(tmp_path: Path) -> None:
    source = yolo_source(tmp_path)
    (tmp_path / "train" / "labels" / "lonely.txt").write_text("")
    assert "without an image" in read(source)[1]
