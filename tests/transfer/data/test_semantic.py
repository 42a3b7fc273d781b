"""Maps of classes: which image has which map, and one sentence for everything that is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.transfer.data.sets import picture
from transfer.data import catalog, doctor
from transfer.data.dataset import examine, open_dataset
from transfer.data.formats import format_of
from transfer.data.image_files import check_images
from transfer.data.label_maps import read_labels
from transfer.data.semantic import Layout
from transfer.data.spec import DatasetError, DatasetSpec

CLASSES = ("sky", "road", "car")


def label(path: Path, ids: np.ndarray | int = 1, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    """Writes an index map; `ids` fills it, or is its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size[::-1], ids, np.uint8) if isinstance(ids, int) else ids.astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def streets(root: Path, **layout: object) -> DatasetSpec:
    """Three images, one in a folder, whose maps hold sky, road and something that is ignored; no car."""
    for number, stem in enumerate(("b", "a", "town/c")):
        picture(root / "images" / f"{stem}.jpg")
        ids = np.full((30, 40), number % 2, np.uint8)
        ids[:5] = 255
        label(root / "labels" / f"{stem}.png", ids)
    given = {"labels": root / "labels", **layout}
    return DatasetSpec("street_train", "semantic", root, "train", CLASSES, image_root=root / "images",
                       layout=Layout(**given))  # fmt: skip


def said(spec: DatasetSpec) -> str:
    """The one line with which a use is refused."""
    with pytest.raises(DatasetError) as error:
        check_images([open_dataset(spec)])
    assert "\n" not in str(error.value), error.value
    return str(error.value)


def test_records_have_sizes_from_headers_and_name_their_map(tmp_path):
    dataset = open_dataset(streets(tmp_path))
    assert dataset.records[2] == {
        "file_name": str(tmp_path / "images/town/c.jpg"),
        "image_id": "town/c",
        "height": 30,
        "width": 40,
        "annotations": [],
        "sem_seg_file_name": str(tmp_path / "labels/town/c.png"),
    }
    assert [r["image_id"] for r in dataset.records] == ["a", "b", "town/c"] and dataset.protocols == ("miou",)
    check_images([dataset])
    dataset.check_scorable()


def test_the_doctor_counts_pixels(tmp_path):
    report = doctor.check(streets(tmp_path))
    assert report.boxes == {"sky": 2 * 25 * 40, "road": 25 * 40, "car": 0} and report.ok and report.scorable
    text = str(report)
    assert "3 images, 3000 pixels\n" in text and "warning: no pixel of a listed class" in text and text.endswith("ok")


def test_a_list_chooses_and_orders(tmp_path):
    spec = streets(tmp_path, listed=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("town/c\n\n# the rest\nb.jpg\n")
    (tmp_path / "labels" / "a.png").unlink()  # not listed
    assert [r["image_id"] for r in open_dataset(spec).records] == ["town/c", "b"]


def test_cityscapes_names(tmp_path):
    root = tmp_path / "cityscapes"
    picture(root / "leftImg8bit/val/aachen/aachen_000000_000019_leftImg8bit.png")
    for kind in ("labelTrainIds", "labelIds", "color"):
        label(root / f"gtFine/val/aachen/aachen_000000_000019_gtFine_{kind}.png", 18 if kind == "labelTrainIds" else 33)
    dataset = open_dataset(catalog.builtin_specs(tmp_path)["cityscapes_fine_sem_seg_val"])
    (record,) = dataset.records
    assert record["image_id"] == "aachen/aachen_000000_000019" and read_labels(record["sem_seg_file_name"]).max() == 18
    check_images([dataset])
    assert "1 images; the official set has 500" in str(doctor.check(dataset.spec))


def test_voc_names(tmp_path):
    root = tmp_path / "VOC2012"
    picture(root / "JPEGImages/2007_000032.jpg"), picture(root / "JPEGImages/2007_000033.jpg")
    label(root / "SegmentationClassAug/2007_000032.png", 20)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train_aug.txt").write_text("2007_000032\n")
    spec = catalog.builtin_specs(tmp_path)["voc_2012_sem_seg_train_aug"]
    assert [r["image_id"] for r in open_dataset(spec).records] == ["2007_000032"]
    missing = catalog.builtin_specs(tmp_path)["voc_2012_sem_seg_val"]
    assert "prepare_voc_aug.py" in said(missing)
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")  # as the archive has it
    assert format_of(spec).is_present(spec) and format_of(missing).is_present(missing)
    (root / "SegmentationClassAug/2007_000032.png").unlink()
    assert not format_of(missing).is_present(missing)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda r: (r / "labels/a.png").unlink(), "label map missing from '{root}/labels': a.png"),
        (lambda r: (r / "images/a.jpg").unlink(), "label map whose image is missing from '{root}/images'"),
        (lambda r: Image.new("P", (40, 30)).save(r / "labels/a.png"), "a palette PNG"),
        (lambda r: Image.new("P", (40, 30)).save(r / "labels/a.png"), "datasets/prepare_voc_aug.py"),
        (lambda r: Image.new("RGB", (40, 30)).save(r / "labels/a.png"), "a 24-bit PNG"),
        (lambda r: Image.new("RGBA", (40, 30)).save(r / "labels/a.png"), "a 32-bit PNG"),
        (lambda r: Image.new("LA", (40, 30)).save(r / "labels/a.png"), "with transparency"),
        (lambda r: Image.new("I;16", (40, 30)).save(r / "labels/a.png"), "a 16-bit PNG"),
        (lambda r: Image.new("1", (40, 30)).save(r / "labels/a.png"), "a PNG of 1 bit"),
        (lambda r: Image.new("L", (40, 30)).save(r / "labels/a.png", "JPEG"), "a JPEG file"),
        (lambda r: label(r / "labels/a.png", size=(30, 40)), "a.png is 30x40, its image 40x30"),
        (lambda r: label(r / "labels/a.png", 3), "there are 3 classes, numbered from 0, and 255 is ignored"),
        (lambda r: label(r / "labels/a.png", 254), "a.png has 254"),
        (lambda r: (r / "labels/a.png").write_bytes(b"no"), "label map cannot be read"),
        (lambda r: (r / "labels/a.png").write_bytes((r / "labels/a.png").read_bytes()[:-30]), "cannot be read"),
        (lambda r: (r / "images/a.jpg").write_bytes(b"no"), "image cannot be read"),
        (lambda r: [label(p, 255) for p in r.glob("labels/**/*.png")], "not a single pixel is labelled"),
        (lambda r: [p.unlink() for p in r.glob("*/**/*.*")], "no image (.jpg"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pair_is_said_before_training(break_it, words, tmp_path):
    spec = streets(tmp_path)
    break_it(tmp_path)
    assert words.format(root=tmp_path) in said(spec)
    assert not doctor.check(spec).ok


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb\na\n", "image listed more than once: a"),
        ("a\nzebra\n", "zebra"),
        ("", "names no image"),
        ("# nothing\n", "names no image"),
        ("images/a.jpg labels/a.png\n", "holds 2 words"),
    ],
)
def test_what_is_wrong_with_a_list(text, words, tmp_path):
    spec = streets(tmp_path, listed=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text(text)
    if "zebra" in text:
        contents, faults = examine(spec)
        assert len(contents.records) == 1 and [p.where for p in faults.problems] == [["zebra"], ["zebra.png"]]
    else:
        assert words in said(spec)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ignore_label": 1}, "which is also the id of class 'road'"),
        ({"ignore_label": 300}, "less than or equal to 255"),
        ({"ignore_lable": 255}, "did you mean ignore_label"),
        ({"classes": [f"c{i}" for i in range(256)]}, "256 classes; maps of 8 bits hold at most 255"),
        ({"classes": ["a", "a"]}, "classes listed twice: a"),
    ],
)
def test_a_spec_file_is_checked(change, words, tmp_path):
    import yaml

    keys = {"name": "street", "format": "semantic", "root": ".", "classes": list(CLASSES),
            "splits": {"train": {"images": "images", "labels": "labels"}}}  # fmt: skip
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(keys))
    (spec,) = catalog.read_spec_file(tmp_path / "good.yaml")
    assert spec == streets(tmp_path)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(keys | change))
    with pytest.raises(DatasetError, match=words.replace("(", r"\(")):
        catalog.read_spec_file(tmp_path / "bad.yaml")


def test_the_digest_follows_the_maps(tmp_path):
    spec = streets(tmp_path)
    first = catalog.listing_digest(spec)
    assert catalog.listing_digest(spec) == first
    label(tmp_path / "labels/a.png", 2)
    assert catalog.listing_digest(spec) != first


def test_a_changed_map_is_read_anew(tmp_path):
    spec = streets(tmp_path)
    check_images([open_dataset(spec)])
    label(tmp_path / "labels/a.png", 77)
    assert "a.png has 77" in said(spec)


def test_generated_maps_are_the_scenes_masks(generated):
    import json

    import pycocotools.mask as mask_util

    (spec, _) = catalog.read_spec_file(generated / "semantic.yaml")
    records = open_dataset(spec).records
    truth = json.loads((generated / "coco/instances_train.json").read_text())
    assert len(records) == len(truth["images"]) > 0
    for record, image in zip(records, truth["images"], strict=True):
        ids = read_labels(record["sem_seg_file_name"])
        objects = np.zeros(ids.shape, bool)
        for a in (a for a in truth["annotations"] if a["image_id"] == image["id"]):
            rles = mask_util.frPyObjects(a["segmentation"], *ids.shape)
            mask = mask_util.decode(mask_util.merge(rles)).astype(bool)
            assert set(np.unique(ids[mask])) <= {a["category_id"], 255}
            objects |= mask
        assert not ids[~objects].any() and ids[objects].all()


def test_the_remedy_and_the_name_are_said_once(tmp_path):
    said_of_it = said(catalog.builtin_specs(tmp_path)["cityscapes_fine_sem_seg_val"])
    assert said_of_it.count("prepare_cityscapes.py") == 1 and said_of_it.count("dataset 'cityscapes") == 1
