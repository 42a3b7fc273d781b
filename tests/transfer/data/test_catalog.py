"""Names, spec files and digests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pretrain.runtime.config import ConfigError
from tests.transfer.data.sets import CAT, DOG, coco_set, voc_image, voc_object, voc_set, voc_split
from transfer.data import catalog
from transfer.data.catalog import DatasetError, DatasetSpec

VOC_YAML = "name: pets\nformat: voc\nroot: {root}\nclasses: [cat, dog]\nyear: 2007\nsplits: [train, test]\n"
COCO_YAML = "name: pets\nformat: coco\nroot: {root}\nsplits:\n  train: {{images: images, annotations: train.json}}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_builtin_tree_follows_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    specs = catalog.builtin_specs()
    assert len(specs) == 22
    assert specs["voc_2007_test"].root == Path("/data/VOC2007") and specs["voc_2007_test"].year == 2007
    assert specs["voc_2012_trainval"].split == "trainval" and specs["voc_2012_trainval"].year == 2012
    assert specs["coco_2017_val"].json_file == Path("/data/coco/annotations/instances_val2017.json")
    assert specs["coco_2017_val"].image_root == Path("/data/coco/val2017")
    assert specs["voc_2012_sem_seg_val"].image_root == Path("/data/VOC2012/JPEGImages")
    assert specs["cityscapes_fine_sem_seg_train"].layout.labels == Path("/data/cityscapes/gtFine/train")
    assert len(catalog.class_names(specs["voc_2007_test"])) == 20
    assert len(catalog.class_names(specs["coco_2017_train"])) == 80
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert catalog.builtin_specs()["voc_2007_test"].root == Path("datasets/VOC2007")


def test_voc_spec_file_is_relative_to_itself(tmp_path: Path) -> None:
    voc_set(tmp_path / "data")
    train, test = catalog.read_spec_file(write(tmp_path / "pets.yaml", VOC_YAML.format(root="data")))
    assert (train.name, test.name, test.split) == ("pets_train", "pets_test", "test")
    assert train.root == tmp_path / "data" and train.classes == (CAT, DOG)
    assert len(catalog.load(train)) == 3
    assert catalog.category_ids(train) == (1, 2)


def test_coco_spec_file(tmp_path: Path) -> None:
    coco_set(tmp_path / "data")
    [spec] = catalog.read_spec_file(write(tmp_path / "pets.yaml", COCO_YAML.format(root="data")))
    assert spec.name == "pets_train" and spec.image_root == tmp_path / "data/images"
    assert catalog.class_names(spec) == (CAT, DOG) and catalog.category_ids(spec) == (3, 7)
    assert len(catalog.load(spec)) == 2


def test_home_and_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PETS", "/pets")
    assert catalog.read_spec_file(write(tmp_path / "a.yaml", VOC_YAML.format(root="~/x")))[0].root == Path("/home/me/x")
    assert catalog.read_spec_file(write(tmp_path / "b.yaml", VOC_YAML.format(root="$PETS/x")))[0].root == Path(
        "/pets/x"
    )
    with pytest.raises(DatasetError, match=r"'\$PETTS/x' names an environment variable that is not set"):
        catalog.read_spec_file(write(tmp_path / "c.yaml", VOC_YAML.format(root="$PETTS/x")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VOC_YAML.replace("classes:", "clases:"), "clases: is not known; did you mean classes"),
        (VOC_YAML.replace("year: 2007\n", ""), "year: is missing; add it"),
        (VOC_YAML.replace("2007", "2010"), "year is 2010"),
        (VOC_YAML.replace("[cat, dog]", "[cat, cat]"), "classes listed twice: cat"),
        (VOC_YAML.replace("[cat, dog]", "cat"), "classes: is 'cat'; it should be a valid list"),
        (VOC_YAML.replace("format: voc", "format: yolo"), "format is 'yolo'; give 'voc' or 'coco'"),
        (
            COCO_YAML.replace("annotations:", "anotations:"),
            "splits.train.anotations: is not known; did you mean annotations",
        ),
        (COCO_YAML + "year: 2007\n", "year: is not known; remove it"),
        (
            "name: pets\nformat: coco\nroot: x\nsplits: [train]\n",
            "splits: is \\['train'\\]; it should be a valid dictionary",
        ),
        (VOC_YAML + "name: other\n", "stands twice"),
        (VOC_YAML.replace("name: pets", "name: [pets]"), r"name: is \['pets'\]; it should be a valid string"),
        (VOC_YAML.replace("name: pets", "name: ../../pets"), "name '../../pets_train' cannot be part of a file's name"),
        (VOC_YAML.replace("[train, test]", "['../train']"), "cannot be part of a file's name"),
        (VOC_YAML.replace("[cat, dog]", '[cat, "d\\0g"]'), "class .* is no printable name"),
        (VOC_YAML.replace("[cat, dog]", "[cat, null]"), r"classes\[1\]: is None; it should be a valid string"),
        (VOC_YAML.replace("2007", "'2007'"), "year: is '2007'; it should be a valid integer"),
    ],
)
def test_faulty_spec_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((ConfigError, DatasetError), match=message):
        catalog.read_spec_file(write(tmp_path / "pets.yaml", text.format(root="data")))


def test_resolve_keeps_order_and_explains_unknown_names(tmp_path: Path) -> None:
    file = write(tmp_path / "pets.yaml", VOC_YAML.format(root="data"))
    names = ["voc_2007_test", "pets_train"]
    assert [spec.name for spec in catalog.resolve(names, [file])] == names
    with pytest.raises(DatasetError, match="'pets_trian' is not among .*pets.yaml'; did you mean pets_train"):
        catalog.resolve(["pets_trian"], [file])
    with pytest.raises(DatasetError, match="built-in sets; name its spec file in DATASETS.SPECS or --spec"):
        catalog.resolve(["pets_train"])


def test_one_name_for_two_sets_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", VOC_YAML.format(root="data"))
    b = write(tmp_path / "b.yaml", VOC_YAML.format(root="elsewhere"))
    with pytest.raises(DatasetError, match="'pets_train' is defined by .*b.yaml' and by .*a.yaml'"):
        catalog.resolve(["pets_train"], [a, b])
    assert catalog.resolve(["pets_train"], [a, a])


def test_a_spec_checks_itself() -> None:
    with pytest.raises(DatasetError, match="needs an image folder and a json file"):
        DatasetSpec("x", "coco", Path("."), "train")
    with pytest.raises(DatasetError, match="format is 'yolo'; give 'voc' or 'coco'"):
        DatasetSpec("x", "yolo", Path("."), "train")


def test_voc_digest_follows_content_not_place_or_time(tmp_path: Path) -> None:
    first = voc_set(tmp_path / "a")
    digest = catalog.listing_digest(first)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "Annotations" / "a1.xml", (1, 1))
    moved = DatasetSpec("other_name", "voc", tmp_path / "b", "train", first.classes, 2007)
    assert catalog.listing_digest(moved) == digest
    voc_image(tmp_path / "b", "a1", voc_object(CAT, (3, 4, 10, 13), 1))
    assert catalog.listing_digest(moved) != digest
    assert catalog.listing_digest(DatasetSpec("x", "voc", tmp_path / "a", "train", (DOG, CAT), 2007)) != digest
    (tmp_path / "a" / "JPEGImages" / "a1.jpg").write_bytes(b"other size")
    assert catalog.listing_digest(first) != digest


def test_voc_digest_follows_images_in_folders_within(tmp_path: Path) -> None:
    """Of which the folder JPEGImages itself does not tell that they changed."""
    spec = voc_set(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder / "below").mkdir()
    (tmp_path / "Annotations" / "a1.xml").rename(tmp_path / "Annotations" / "below" / "a1.xml")
    image = (tmp_path / "JPEGImages" / "a1.jpg").rename(tmp_path / "JPEGImages" / "below" / "a1.jpg")
    voc_split(tmp_path, "train", "b2", "below/a1", "c3")
    digest = catalog.listing_digest(spec)
    image.rename(image.with_suffix(".png"))
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    anew = DatasetSpec("anew", "voc", tmp_path.with_name("copy"), "train", spec.classes, 2007)
    assert catalog.listing_digest(spec) == catalog.listing_digest(anew) != digest


def test_coco_digest_follows_annotations_and_images(tmp_path: Path) -> None:
    spec = coco_set(tmp_path)
    digest = catalog.listing_digest(spec)
    assert catalog.listing_digest(spec) == digest
    (tmp_path / "images" / "nine.jpg").unlink()
    without_image = catalog.listing_digest(spec)
    coco_set(tmp_path, categories=[{"id": 3, "name": CAT}, {"id": 7, "name": "wolf"}])
    assert len({digest, without_image, catalog.listing_digest(spec)}) == 3


@pytest.mark.d2
def test_builtin_class_names_are_detectron2s(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("detectron2")
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
    from detectron2.data.datasets.pascal_voc import CLASS_NAMES

    specs = catalog.builtin_specs()
    assert specs["voc_2007_test"].classes == CLASS_NAMES
    assert list(specs["coco_2017_val"].classes or ()) == _get_builtin_metadata("coco")["thing_classes"]
