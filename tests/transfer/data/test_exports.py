"""Exports that are read as they come, by the YAML of datasets/README.md: Roboflow's, CVAT's. And splits for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.runtime import commands
from tests.docs.commands import named_files
from tests.tools.test_errors import tool
from tests.transfer.data.sets import CAT, DOG, box, picture, voc_image, voc_object
from transfer.data import catalog
from transfer.data.voc import read_split

SPLITS = "../datasets/make_splits"


def checked(root: Path, **keys: Any) -> list[catalog.DatasetSpec]:
    """The data sets of a spec file, once check_dataset has nothing against them."""
    (root / "pets.yaml").write_text(yaml.safe_dump({"name": "pets", "root": ".", **keys}, sort_keys=False))
    assert tool("check_dataset").main(["--spec", str(root / "pets.yaml")]) == 0
    return catalog.read_spec_file(root / "pets.yaml")


def split(*words: object) -> int:
    return commands.status(tool(SPLITS).main, [str(word) for word in words])


def coco_json(path: Path, images: list[str], categories: list[dict[str, Any]], **more: Any) -> None:
    data = {
        "info": {}, "licenses": [], "categories": categories,
        "images": [{"id": i, "file_name": n, "width": 40, "height": 30, "license": 1} for i, n in enumerate(images)],
        "annotations": [box(i, i, categories[-1]["id"], [1, 2, 10 + i, 12]) for i in range(len(images))],
        **more,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def test_roboflows_coco(tmp_path: Path) -> None:
    """A json beside the images of each split; category 0 is the project's name. The page's own YAML."""
    (tmp_path / "roboflow.yaml").write_text(named_files("datasets/README.md")["roboflow.yaml"])
    categories = [{"id": 0, "name": "chess", "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": "chess"} for i, name in ((1, "bishop"), (2, "king"))]
    for folder in ("train", "valid", "test"):
        names = [f"{folder}{i}_jpg.rf.0123.jpg" for i in range(2)]
        root = tmp_path / "data" / "roboflow" / folder
        for name in names:
            picture(root / name)
        coco_json(root / "_annotations.coco.json", names, categories)
    assert tool("check_dataset").main(["--spec", str(tmp_path / "roboflow.yaml")]) == 0
    specs = catalog.read_spec_file(tmp_path / "roboflow.yaml")
    assert [spec.name for spec in specs] == ["chess_train", "chess_valid", "chess_test"]
    for spec in specs:
        assert catalog.open_dataset(spec).classes == ("bishop", "king") and catalog.category_ids(spec) == (1, 2)
        assert [a["category_id"] for r in catalog.load(spec) for a in r["annotations"]] == [1, 1]


def test_cvats_coco_drawn_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"photos/frame_{i:06}.png" for i in range(10)]
    for name in names:
        picture(tmp_path / "images" / "default" / name)
    source = tmp_path / "annotations" / "instances_default.json"
    coco_json(source, names, [{"id": 1, "name": CAT, "supercategory": ""}, {"id": 2, "name": DOG, "supercategory": ""}])
    assert split(source, "--shares", "train=0.8", "val=0.2") == 0
    assert "instances_default_train.json: 8 images" in capsys.readouterr().out
    json_file = "annotations/instances_default_{}.json"
    splits = {n: {"images": "images/default", "annotations": json_file.format(n)} for n in ("train", "val")}
    train, val = checked(tmp_path, format="coco", splits=splits)
    files = [{r["file_name"] for r in catalog.load(spec)} for spec in (train, val)]
    assert [*map(len, files)] == [8, 2] and not files[0] & files[1]
    boxes = sorted(a["bbox"] for spec in (train, val) for r in catalog.load(spec) for a in r["annotations"])
    assert boxes == sorted([1, 2, 11 + i, 14] for i in range(10))


def voc_folder(root: Path) -> None:
    for i in range(6):
        folder = root / "JPEGImages" / "photos"
        voc_image(root, f"{i}", voc_object(CAT if i % 2 else DOG, (1 + i, 1, 20, 20)))
        folder.mkdir(exist_ok=True)
        (root / "Annotations" / "photos").mkdir(exist_ok=True)
        (root / "JPEGImages" / f"{i}.jpg").rename(folder / f"{i}.jpg")
        (root / "Annotations" / f"{i}.xml").rename(root / "Annotations" / "photos" / f"{i}.xml")


def test_cvats_pascal_voc(tmp_path: Path) -> None:
    """Images in a folder of their own, listed by `folder/name` in a single split, which is then drawn apart."""
    voc_folder(tmp_path)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "default.txt").write_text("".join(f"photos/{i}\n" for i in range(6)))
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n")
    (spec,) = checked(tmp_path, format="voc", classes=[CAT, DOG], year=2012, splits=["default"])
    records = catalog.load(spec)
    assert records[0]["image_id"] == "photos/0" and Path(records[0]["file_name"]).is_file()
    assert split(tmp_path, "--shares", "train=0.5", "val=0.5") == 0
    train, val = checked(tmp_path, format="voc", classes=[CAT, DOG], year=2012, splits=["train", "val"])
    ids = [[r["image_id"] for r in catalog.load(spec)] for spec in (train, val)]
    assert sorted(ids[0] + ids[1]) == [f"photos/{i}" for i in range(6)] and [*map(len, ids)] == [3, 3]


@pytest.mark.parametrize("line", ["../x", "photos/../../x", "photos/9", "/etc/passwd"])
def test_a_split_leads_nowhere_else(tmp_path: Path, line: str) -> None:
    voc_folder(tmp_path)
    (tmp_path / "x.xml").write_text("<annotation/>")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text(f"{line}\n")
    spec = catalog.DatasetSpec("pets_test", "voc", tmp_path, "test", (CAT, DOG), 2012)
    with pytest.raises(catalog.DatasetError, match=f"line 1: '{line}' is a path; expected one image id"):
        catalog.load(spec)


@pytest.mark.parametrize("name", [" lead", "trail ", "a\u2028b", "a\nb", os.fsdecode(b"a\xff")])
def test_a_name_that_no_list_can_hold_is_not_drawn(tmp_path: Path, capsys, name: str) -> None:
    voc_folder(tmp_path)
    for path in (tmp_path / "Annotations" / "photos" / "0.xml", tmp_path / "JPEGImages" / "photos" / "0.jpg"):
        path.rename(path.parents[1] / f"{name}{path.suffix}")
    assert split(tmp_path, "--shares", "train=0.5", "val=0.5") == 2
    assert "is no line of a list" in capsys.readouterr().err and not (tmp_path / "ImageSets").exists()


@pytest.mark.parametrize("name", ["a 1", "#x", "x.jpg", "a#2", "-1", "sub/#k", "e\u0301", "x\u200d\u00e9"])
def test_any_other_name_comes_back(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "Annotations" / f"{name}.xml", tmp_path / "JPEGImages" / f"{name}.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert split(tmp_path, "--shares", "train=1") == 0
    assert read_split(catalog.DatasetSpec("pets_train", "voc", tmp_path, "train", (CAT,), 2012)) == [name]


def test_what_cannot_be_drawn_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(message: str, *words: object) -> None:
        assert split(*words) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err, err

    root, halves = tmp_path / "set", ("--shares", "train=0.5", "val=0.5")
    voc_folder(root)
    assert split(root, *halves) == 0
    before = (root / "ImageSets" / "Main" / "train.txt").read_bytes()
    says("train.txt", root, *halves, "--seed", 5)
    says("write over them with --force", root, *halves, "--seed", 5)
    assert (root / "ImageSets" / "Main" / "train.txt").read_bytes() == before
    assert split(root, *halves, "--seed", 5, "--force") == 0
    assert (root / "ImageSets" / "Main" / "train.txt").read_bytes() != before
    says("sum to 0.9, not to 1", root, "--shares", "a=0.9")
    picture(root / "JPEGImages" / "new.jpg")
    says("1 have no annotation (new)", root, "--shares", "a=1")
    says("has no folder Annotations", tmp_path, *halves)
    says("does not exist; give a folder in the VOC layout", tmp_path / "gone.json", *halves)
    for text, message in (
        ("{}", "has no lists 'images'"),
        ('{"images": [{}], "annotations": []}', "file_name None is none"),
    ):
        (tmp_path / "a.json").write_text(text)
        says(message, tmp_path / "a.json", *halves)
