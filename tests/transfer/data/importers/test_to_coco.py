"""Imports as a whole: the same objects drawn in three tools, against closed forms, by the command and the checker."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime import commands
from tests.disks import fail_at
from tests.tools.test_errors import tool
from tests.transfer.data.importers.sources import (
    labelme_json,
    labelme_shape,
    labelme_source,
    via_source,
    yolo_source,
)  # fmt: skip
from tests.transfer.data.sets import picture
from transfer.data import catalog

IMPORT = "../datasets/import_annotations"


def run(*words: object) -> int:
    return commands.status(tool(IMPORT).main, [str(word) for word in words])


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]):
    """Runs the command, which must fail with this in its error and write nothing."""

    def check(output: Path, message: str, *words: object) -> None:
        assert run(*words, "--output", output) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err, err
        assert not output.exists()

    return check


def objects(json_file: Path) -> list[tuple[Any, ...]]:
    data = json.loads(json_file.read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    files = {image["id"]: image["file_name"] for image in data["images"]}
    return [
        (files[a["image_id"]], names[a["category_id"]], a["bbox"], a["area"], len(a.get("segmentation", [])))
        for a in data["annotations"]
    ]


@pytest.mark.parametrize(("name", "make"), [("labelme", labelme_source), ("via", via_source)])
def test_the_same_objects_from_each_tool(tmp_path: Path, name: str, make: Any, capsys) -> None:
    source = make(tmp_path / "photos")
    assert run(name, source, "--output", tmp_path / "pets") == 0
    report = capsys.readouterr().out
    assert "pets_all: 2 images, 4 boxes" in report
    triangle, square = ("cat", [2, 3, 10, 20], 100, 1), ("dog", [20, 5, 10, 10], 100, 0)
    found = objects(tmp_path / "pets" / "annotations" / "all.json")
    assert found[:2] == [("a.jpg", *triangle), ("a.jpg", *square)] and found[3] == ("img/b.png", *triangle)
    image, label, box, area, polygons = found[2]
    assert (image, label, polygons) == ("img/b.png", "dog", 1)
    assert box == pytest.approx([20, 15, 10, 10]) and area == pytest.approx(25 * math.pi, abs=4)

    (spec,) = catalog.read_spec_file(tmp_path / "pets" / "pets.yaml")
    assert spec.name == "pets_all" and spec.classes == ("cat", "dog")
    first = catalog.load(spec)[0]
    assert Path(first["file_name"]).samefile(tmp_path / "photos" / "a.jpg")
    assert [a["bbox"] for a in first["annotations"]] == [[2, 3, 12, 23], [20, 5, 30, 15]]
    assert tool("check_dataset").main(["--spec", str(tmp_path / "pets" / "pets.yaml")]) == 0


def test_yolo_has_splits_and_classes_of_its_own(tmp_path: Path) -> None:
    assert run("yolo", yolo_source(tmp_path / "chess"), "--output", tmp_path / "out") == 0
    train, val = catalog.read_spec_file(tmp_path / "out" / "out.yaml")
    assert (train.name, val.name) == ("out_train", "out_val") and train.classes == ("cat", "dog", "bird")
    square, triangle = objects(tmp_path / "out" / "annotations" / "train.json")
    assert square[1:3] == ("dog", pytest.approx([20, 5, 10, 10])) and square[3:] == (pytest.approx(100), 0)
    assert triangle[1:3] == ("cat", pytest.approx([2, 3, 10, 20])) and triangle[3:] == (pytest.approx(100), 1)
    assert [len(r["annotations"]) for r in catalog.load(train)] == [2, 0] and len(catalog.load(val)) == 1
    assert tool("check_dataset").main(["--spec", str(tmp_path / "out" / "out.yaml")]) == 0


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for i in range(10):
        picture(tmp_path / "photos" / f"{i}.jpg")
        labelme_json(tmp_path / "photos" / f"{i}.json", f"{i}.jpg", labelme_shape("cat", "rectangle", [[1, 1], [9, 9]]))
    return tmp_path / "photos"


def test_shares_draw_a_source_apart(many: Path, tmp_path: Path, capsys) -> None:
    words = ("labelme", many, "--output", tmp_path / "pets", "--shares", "train=0.7", "test=0.3")
    assert run(*words) == 0
    specs = catalog.read_spec_file(tmp_path / "pets" / "pets.yaml")
    files = [[os.path.basename(r["file_name"]) for r in catalog.load(spec)] for spec in specs]
    assert [spec.name for spec in specs] == ["pets_train", "pets_test"] and [*map(len, files)] == [7, 3]
    assert sorted(files[0] + files[1]) == [f"{i}.jpg" for i in range(10)]
    before = (tmp_path / "pets" / "annotations" / "train.json").read_bytes()
    assert (
        run(*words) == 2 and "exists; choose another --output, or write over it with --force" in capsys.readouterr().err
    )
    assert run(*words, "--force") == 0 and (tmp_path / "pets" / "annotations" / "train.json").read_bytes() == before
    assert run(*words, "--force", "--seed", 1) == 0
    assert (tmp_path / "pets" / "annotations" / "train.json").read_bytes() != before


def test_an_import_replaces_all_files_of_another_or_none(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("labelme", many, "--output", tmp_path / "pets", "--shares", "train=0.7", "test=0.3", "--force")

    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in (tmp_path / "pets").rglob("*") if p.is_file()}

    assert run(*words) == 0
    before = files()
    with monkeypatch.context() as disk:
        fail_at(disk, "fsync", 2)
        assert run(*words, "--seed", 1) == commands.NO_STORAGE
    assert files() == before
    assert run(*words, "--seed", 1) == 0 and files().keys() == before.keys() and files() != before


def test_named_sources_are_splits_of_one_set(many: Path, tmp_path: Path, says) -> None:
    picture(tmp_path / "more" / "x.jpg")
    labelme_json(tmp_path / "more" / "x.json", "x.jpg", labelme_shape("dog", "rectangle", [[1, 1], [9, 9]]))
    both = (f"train={many}", f"val={tmp_path / 'more'}")
    assert run("labelme", *both, "--output", tmp_path / "pets") == 0
    train, val = catalog.read_spec_file(tmp_path / "pets" / "pets.yaml")
    assert train.classes == val.classes == ("cat", "dog") and (len(catalog.load(train)), len(catalog.load(val))) == (
        10,
        1,
    )
    out = tmp_path / "out"
    says(out, "several sources need names; give each as SPLIT=SOURCE", "labelme", many, tmp_path / "more")
    says(out, "split val has several sources", "labelme", f"val={many}", f"val={tmp_path / 'more'}")
    says(out, "shares divide one source, and here are 2", "labelme", *both, "--shares", "train=1")
    says(out, "split '../x': a name has letters", "labelme", f"../x={many}")
    says(out, "names its own splits; give it without 'train='", "yolo", f"train={yolo_source(tmp_path / 'chess')}")


def test_classes_are_those_that_are_listed(many: Path, tmp_path: Path, says) -> None:
    says(tmp_path / "out", "label 'cat' (10 objects) that --classes does not list; did you mean Cat?", "labelme", many,
         "--classes", "Cat", "dog")  # fmt: skip
    says(tmp_path / "out", "classes listed twice: cat", "labelme", many, "--classes", "cat", "cat")
    assert run("labelme", many, "--output", tmp_path / "pets", "--classes", "dog", "cat") == 0
    assert catalog.read_spec_file(tmp_path / "pets" / "pets.yaml")[0].classes == ("dog", "cat")


def test_no_option_is_without_effect(many: Path, tmp_path: Path, says) -> None:
    source = yolo_source(tmp_path / "chess")
    says(tmp_path / "out", "--images has no effect on yolo's annotations", "yolo", source, "--images", many)
    says(tmp_path / "out", "--attribute has no effect on labelme's", "labelme", many, "--attribute", "kind")
    with pytest.raises(SystemExit):
        run("labelme", many, "--output", tmp_path / "out", "--seed", 1)


def test_images_in_a_folder_of_their_own(tmp_path: Path) -> None:
    source = via_source(tmp_path / "photos")
    (tmp_path / "via.json").write_bytes(source.read_bytes())
    words = ("via", tmp_path / "via.json", "--images", tmp_path / "photos", "--attribute", "kind")
    assert run(*words, "--output", tmp_path / "pets") == 0
    labelme = labelme_source(tmp_path / "both")
    for path in sorted((tmp_path / "both").rglob("*.json")):
        moved = tmp_path / "jsons" / path.relative_to(tmp_path / "both")
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    assert run("labelme", tmp_path / "jsons", "--images", labelme, "--output", tmp_path / "more") == 0
    assert objects(tmp_path / "more" / "annotations" / "all.json") == objects(
        tmp_path / "pets" / "annotations" / "all.json"
    )


def test_what_is_wrong_with_images(many: Path, tmp_path: Path, says) -> None:
    out = tmp_path / "out"
    cat = labelme_shape("cat", "rectangle", [[1, 1], [9, 9]])
    labelme_json(many / "twice.json", "0.jpg", cat)
    labelme_json(many / "gone.json", "gone.jpg", cat)
    labelme_json(many / "small.json", "1.jpg", cat, imageWidth=41)
    (many / "2.jpg").write_text("no image")
    labelme_json(many / "leads.json", "../../x.jpg", cat)
    labelme_json(many / "absolute.json", "/etc/passwd", cat)
    says(out, "image with two files of annotations; merge them [2x]", "labelme", many)
    says(out, f"image that does not exist: {many}/gone.jpg (of {many}/gone.json)", "labelme", many)
    says(out, "image that cannot be read", "labelme", many)
    says(out, "image '../../x.jpg' does not lie below", "labelme", many)
    says(out, "image '/etc/passwd' does not lie below", "labelme", many)
    (many / "twice.json").unlink()
    (many / "1.json").unlink()
    says(out, "1.jpg is 40 x 30, stated 41 x 30", "labelme", many)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([("rectangle", [[8, 6], [119, 89]])], "rectangle: box that reaches far over its image's border"),
        ([("polygon", [[-50, -50], [90, -50], [90, 80]])], "polygon: box that reaches far over its image's border"),
        ([("rectangle", [[-20, -20], [50, 40]])], "area that is larger than its image: {json} shape 1: 4200.0"),
        ([("rectangle", [[0.2, 0.2], [0.9, 0.9]])], "box within the first pixel: normalised coordinates?"),
        (
            [("rectangle", [[-20, -20], [20, 15]]), ("rectangle", [[20, 15], [50, 40]])],
            "area that is larger than its image: {json} shape 1: 4200.0",
        ),
    ],
)
def test_what_the_sets_own_check_would_refuse(tmp_path: Path, says, shapes: list[Any], message: str) -> None:
    """Of 40 x 30 pixels; the last two shapes are one object."""
    file = tmp_path / "photos" / "a.json"
    picture(file.with_name("a.jpg"))
    labelme_json(file, "a.jpg", *(labelme_shape("cat", *shape, group_id=1) for shape in shapes))
    says(tmp_path / "out", message.format(json=file), "labelme", file.parent)


@pytest.mark.parametrize("name", ["$HOME", "a$b"])
def test_a_folder_that_a_spec_file_cannot_name(many: Path, tmp_path: Path, says, name: str) -> None:
    many.rename(tmp_path / name)
    says(tmp_path / "out", f"the path '../{name}' from --output to the images holds a $", "labelme", tmp_path / name)


def test_images_of_two_splits_are_told(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "few").mkdir()
    for i in range(3):
        (tmp_path / "few" / f"{i}.jpg").symlink_to(many / f"{i}.jpg")
        (tmp_path / "few" / f"{i}.json").write_bytes((many / f"{i}.json").read_bytes())
    assert run("labelme", f"train={many}", f"val={tmp_path / 'few'}", "--output", tmp_path / "pets") == 0
    assert f"warning: image in more than one split; one that is trained on tests nothing [3x]: {many}/0.jpg" in (
        capsys.readouterr().out
    )


def test_a_name_of_a_built_in_set(many: Path, tmp_path: Path, says) -> None:
    words = ("labelme", many, "--shares", "train=0.5", "val=0.5")
    says(tmp_path / "coco_2017", "'coco_2017_train' is a data set that is built in; choose another --output", *words)


def test_nothing_is_annotated(tmp_path: Path, says) -> None:
    picture(tmp_path / "photos" / "a.jpg")
    labelme_json(tmp_path / "photos" / "a.json", "a.jpg")
    says(tmp_path / "out", "no object is annotated", "labelme", tmp_path / "photos")
    says(tmp_path / "out", "is no folder; give the one that holds labelme's jsons", "labelme", tmp_path / "none")
