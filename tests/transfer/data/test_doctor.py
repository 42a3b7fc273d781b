"""The doctor, and the command around it."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from pretrain.runtime.commands import status
from tests.transfer.data.sets import CAT, DOG, box, coco_set, picture, voc_image, voc_object, voc_set, voc_split
from transfer.data import catalog, doctor
from transfer.data.catalog import builtin_specs
from transfer.data.spec import DatasetError, DatasetSpec

ROOT = Path(__file__).resolve().parents[3]


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(spec: DatasetSpec, decode: bool = True) -> dict[str, str]:
    """what -> level and places, as one text each."""
    return {problem.what: str(problem) for problem in doctor.check(spec, decode).problems}


def test_a_good_set_is_ok(tmp_path: Path) -> None:
    report = doctor.check(voc_set(tmp_path))
    assert report.ok and report.problems == [] and report.images == 3
    assert report.boxes == {CAT: 2, DOG: 1} and report.set_aside == {CAT: 1}
    assert "3 images, 3 boxes, 1 of them difficult" in str(report) and str(report).endswith("ok")


def test_a_set_without_objects_is_for_running_over_alone(tmp_path: Path) -> None:
    """Training refuses it, too, and so does a set of crowd regions alone."""
    verdict = "ok to run a detector over; there is nothing to train on or to score"
    bare = coco_set(tmp_path / "bare", annotations=[])
    assert str(doctor.check(bare)).endswith(verdict) and not doctor.check(bare).trainable
    crowd = {"size": [30, 40], "counts": [0, 1200]}
    group = box(1, 9, 3, [0.0, 0.0, 40.0, 30.0], iscrowd=1, segmentation=crowd)
    assert str(doctor.check(coco_set(tmp_path / "crowd", annotations=[group]))).endswith(verdict)


def test_an_image_of_a_json_is_named_by_its_file_too(tmp_path: Path) -> None:
    spec = coco_set(tmp_path)
    (tmp_path / "images" / "nine.jpg").write_bytes(b"no image")
    picture(tmp_path / "images" / "sub" / "two.jpg", width=50)
    found = faults(spec)
    assert "9 'nine.jpg' (" in found["image cannot be read"]
    assert "2 'two.jpg' is 50x30" in found["image size differs from its annotation; correct the annotation"]


def test_voc_faults_are_all_found_at_once(tmp_path: Path) -> None:
    spec = voc_set(tmp_path)
    voc_image(tmp_path, "unlisted", voc_object("dgo", (1, 1, 5, 5)))
    voc_image(tmp_path, "size", size=(41, 30))
    voc_image(tmp_path, "boxes", voc_object(CAT, (50, 1, 60, 9)), voc_object(CAT, (9, 9, 2, 9)))
    voc_image(tmp_path, "edges", voc_object(CAT, (3, 3, 2, 9)), voc_object(CAT, (3, 3, 44, 9)))
    voc_image(tmp_path, "cut")
    path = tmp_path / "JPEGImages" / "cut.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    voc_image(tmp_path, "text")
    (tmp_path / "JPEGImages" / "text.jpg").write_text("no image")
    voc_image(tmp_path, "gone")
    (tmp_path / "JPEGImages" / "gone.jpg").unlink()
    voc_image(tmp_path, "noxml")
    (tmp_path / "Annotations" / "noxml.xml").unlink()
    voc_split(tmp_path, "train", "a1", "a1", "unlisted", "size", "boxes", "edges", "cut", "text", "gone", "noxml")

    report = doctor.check(spec)
    text = str(report)
    assert not report.ok and text.endswith("not usable as it is")
    for line in (
        "error: class 'dgo' is not listed; did you mean dog?: unlisted",
        "error: image size differs from its annotation; correct the annotation: size is 40x30, annotated 41x30",
        "error: box wholly outside its image: boxes.jpg cat (49, 0, 60, 9) in 40x30",
        "error: box with negative width or height: boxes.jpg cat (8, 8, 2, 9) in 40x30",
        "error in a test set: box without area, which training leaves out: edges.jpg cat (2, 2, 2, 9) in 40x30",
        "warning: box reaching over the border by more than a pixel: edges.jpg cat (2, 2, 44, 9) in 40x30",
        "error: image cannot be read [2x]: cut (image file is truncated",
        "JPEGImages': gone",
        "noxml.xml' does not exist",
        "error: image listed more than once: a1",
        "warning: no object of a listed class, whose AP is then undefined or 0: dog",
    ):
        assert line in text, f"{line}\n{text}"
    assert "cut" not in faults(spec, decode=False)["image cannot be read"]


def test_coco_faults(tmp_path: Path) -> None:
    spec = coco_set(tmp_path)
    assert doctor.check(spec).ok and doctor.check(spec).set_aside == {CAT: 1}
    annotations = [
        box(1, 9, 3, [0, 0, 1, 1]),
        box(1, 9, 5, [0, 0, 1, 1]),
        box(2, 8, 3, [0, 0, 1, 1]),
        box(3, 9, 3, [0, 0, 0, 1]),
        box(4, 9, 3, [0, 0, 1, 1], bbox=[1]),
    ]
    images = [
        {"id": 9, "file_name": "nine.jpg", "width": 40, "height": 31},
        {"id": 9, "file_name": "gone.jpg", "width": 40, "height": 30},
    ]
    found = faults(coco_set(tmp_path, annotations=annotations, images=images))
    assert found["annotation id stands more than once; number them anew"].endswith(": 1")
    assert found["category_id 5 is not in 'categories'"].startswith("error")
    assert found["annotation of an image that is not listed"].startswith("warning")
    assert found["bbox that is not four finite numbers [x, y, width, height]"].endswith("[1]")
    assert found["box without area, which training leaves out"].startswith("error in a test set")
    assert found["image id listed more than once"].endswith(": 9")


def test_a_set_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    specs = builtin_specs(tmp_path)
    report = doctor.check(specs["voc_2007_test"])
    assert "does not exist" in str(report) and str(report).count("prepare_voc.py merges them") == 1
    root = tmp_path / "VOC2007"
    voc_image(root, "000001", voc_object("dog", (1, 1, 40, 30)))
    voc_split(root, "test", "000001")
    report = doctor.check(specs["voc_2007_test"])
    assert "1 images; the official set has 4952" in str(report) and "prepare_voc.py merges them" in str(report)
    merged = "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar belong in one VOC2007 folder"
    with pytest.raises(DatasetError, match=f"trainval.txt' does not exist; the folder has test. {merged}"):
        catalog.load(specs["voc_2007_trainval"])
    voc_split(root, "test", "000001", "000002")
    with pytest.raises(DatasetError, match="image missing from .*: 000002(.|\n)*annotation missing"):
        catalog.load(specs["voc_2007_test"])
    with pytest.raises(DatasetError, match="does not exist; unpack train2017, .* in .DETECTRON2_DATASETS"):
        catalog.load(specs["coco_2017_val"])
    assert not doctor.check(specs["coco_2017_val"]).ok


def test_many_classes_fit_a_screen(tmp_path: Path) -> None:
    voc_set(tmp_path)
    names = (CAT, DOG, *(f"class{i}" for i in range(78)))
    report = str(doctor.check(DatasetSpec("x", "voc", tmp_path, "train", names, 2007)))
    assert len(report.splitlines()) < 40 and "class77" in report


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = script("tools/check_dataset.py").main
    voc_set(tmp_path)
    file = tmp_path / "pets.yaml"
    file.write_text("name: pets\nformat: voc\nroot: .\nclasses: [cat, dog]\nyear: 2007\nsplits: [train, test]\n")
    assert main(["pets_train", "--spec", str(file)]) == 0
    assert "pets_train: 3 images" in capsys.readouterr().out
    assert main(["--spec", str(file)]) == 1  # test has no split file
    assert "test.txt' does not exist; the folder has train" in capsys.readouterr().out
    assert main(["pets_tran", "--spec", str(file)]) == 1
    assert "did you mean pets_train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


def test_prepare_voc_merges_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("datasets/prepare_voc.py")
    for image_id, split, name in (
        ("000001", "trainval", "VOCtrainval_06-Nov-2007.tar"),
        ("000002", "test", "VOCtest_06-Nov-2007.tar"),
    ):
        source = tmp_path / split / "VOCdevkit" / "VOC2007"
        voc_image(source, image_id, voc_object("dog", (1, 1, 40, 30)))
        voc_split(source, split, image_id)
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(tmp_path / split / "VOCdevkit", "VOCdevkit")
    assert module.main(["--archives", str(tmp_path), "--root", str(tmp_path / "out")]) == 1  # two images, not 9963
    out = capsys.readouterr().out
    assert "voc_2007_trainval: 1 images" in out and "1 images; the official set has 4952" in out
    assert sorted(p.stem for p in (tmp_path / "out/VOC2007/JPEGImages").iterdir()) == ["000001", "000002"]
    with pytest.raises(SystemExit):
        module.main(["--archives", str(tmp_path / "out")])


def test_prepare_voc_refuses_to_leave_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "evil.jpg")
    with tarfile.open(tmp_path / "VOCtest_06-Nov-2007.tar", "w") as tar:
        tar.add(tmp_path / "evil.jpg", "VOCdevkit/../../../evil.jpg")
    words = ["--archives", str(tmp_path), "--root", str(tmp_path / "a/b")]
    assert status(script("datasets/prepare_voc.py").main, words) == 2
    assert "cannot extract" in capsys.readouterr().err


def test_prepare_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("datasets/prepare_generated.py")
    main = module.main
    counts = ["--iconic-train", "8", "--iconic-val", "0", "--scenes-trainval", "1", "--scenes-test", "1"]
    assert main(["--root", str(tmp_path / "set"), *counts, "--iconic-size", "48", "40"]) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["parameters"]["iconic_size"] == [48, 40]
    assert module.main(["--root", str(tmp_path / "set"), *counts, "--iconic-size", "48", "40"]) == 0
    assert status(module.main, ["--root", str(tmp_path / "set"), *counts]) == 2
    assert "with other parameters (iconic_size" in capsys.readouterr().err.splitlines()[-1]
