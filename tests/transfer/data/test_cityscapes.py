"""The Cityscapes layout: objects from instance ids, against masks by hand, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from tests.transfer.data import cityscapes_sets as sets
from transfer.data import catalog, doctor
from transfer.data.cityscapes import THINGS, read_ids
from transfer.data.spec import DatasetError


@pytest.fixture
def spec(tmp_path: Path) -> catalog.DatasetSpec:
    return catalog.read_spec_file(sets.make(tmp_path))[0]


def test_objects_are_the_pixels_of_their_ids(spec: catalog.DatasetSpec) -> None:
    dataset = catalog.open_dataset(spec)
    assert dataset.classes == tuple(THINGS) and dataset.category_ids == tuple(THINGS.values())
    assert dataset.protocols == ("cityscapes",) and len(dataset.records) == 6
    groups = 0
    for record, path in zip(dataset.records, dataset.truth, strict=True):
        ids = np.asarray(Image.open(path)).astype(int)
        assert record["image_id"] + "_gtFine_instanceIds.png" == path.name
        assert (record["height"], record["width"]) == ids.shape == (64, 96)
        labels = {v: v if v < 1000 else v // 1000 for v in np.unique(ids).tolist()}
        wanted = [v for v, label in labels.items() if label in THINGS.values()]
        assert len(record["annotations"]) == len(wanted)
        for value, annotation in zip(wanted, record["annotations"], strict=True):
            assert np.array_equal(mask_util.decode(annotation["segmentation"]), ids == value)
            ys, xs = np.nonzero(ids == value)
            assert annotation["bbox"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert dataset.category_ids[annotation["category_id"]] == labels[value]
            assert annotation["iscrowd"] == (value < 1000)
            groups += annotation["iscrowd"]
    assert groups


def test_classes_may_be_fewer_and_in_another_order(tmp_path: Path) -> None:
    path = sets.make(tmp_path)
    path.write_text(path.read_text() + "classes: [car, person]\n")
    dataset = catalog.open_dataset(catalog.read_spec_file(path)[0])
    assert dataset.category_ids == (26, 24)
    assert {a["category_id"] for r in dataset.records for a in r["annotations"]} == {0, 1}
    path.write_text(path.read_text().replace("person", "persn"))
    with pytest.raises(DatasetError, match="'persn' is no class of objects in Cityscapes; did you mean person"):
        catalog.read_spec_file(path)


def test_the_doctor_counts_groups_apart(spec: catalog.DatasetSpec) -> None:
    report = doctor.check(spec)
    assert report.ok and report.images == 6 and "groups" in str(report) and sum(report.set_aside.values())


def _without_partner(path: Path) -> None:
    path.unlink()


def _grey(path: Path) -> None:
    Image.fromarray(np.asarray(Image.open(path)).astype(np.uint8)).save(path)


def _colour(path: Path) -> None:
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(path)


def _palette(path: Path) -> None:
    Image.fromarray(np.zeros((64, 96), np.uint8)).convert("P").save(path)


def _unknown_label(path: Path) -> None:
    Image.fromarray(np.full((64, 96), 40001, np.uint16)).save(path)


def _other_size(path: Path) -> None:
    Image.fromarray(np.full((60, 96), 26001, np.uint16)).save(path)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _no_image(path: Path) -> None:
    name = path.name.replace("_gtFine_instanceIds", "_leftImg8bit")
    (path.parents[3] / "leftImg8bit" / "val" / "aachen" / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_partner, "image without its file of instance ids .*aachen_000002_000019"),
        (_no_image, "file of instance ids without its image .*aachen_000002_000019"),
        (_grey, "is a PNG of mode L, not of 16-bit grey levels"),
        (_colour, "is a PNG of mode RGB"),
        (_palette, "is a PNG of mode P"),
        (_unknown_label, "holds 40001, of labels that Cityscapes does not have"),
        (_truncated, "cannot read"),
    ],
)
def test_what_is_wrong_is_said(spec: catalog.DatasetSpec, tmp_path: Path, damage, message: str) -> None:
    damage(tmp_path / "gtFine/val/aachen/aachen_000002_000019_gtFine_instanceIds.png")
    with pytest.raises(DatasetError, match=message):
        catalog.open_dataset(spec)
    assert not doctor.check(spec).ok


def test_ids_of_another_size_are_found_by_the_image(spec: catalog.DatasetSpec, tmp_path: Path) -> None:
    _other_size(tmp_path / "gtFine/val/aachen/aachen_000002_000019_gtFine_instanceIds.png")
    assert "image size differs from its annotation" in str(doctor.check(spec))


def test_one_id_in_two_cities_is_two_images(spec: catalog.DatasetSpec, tmp_path: Path) -> None:
    sets.write(tmp_path, "aachen_000002_000019", np.full((64, 96), 26001), city="bochum")
    with pytest.raises(DatasetError, match="file in several cities, which would be one image.*aachen_000002_000019"):
        catalog.open_dataset(spec)


def test_cities_may_be_nested_and_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = sets.make(tmp_path, images=1)
    sets.write(tmp_path, "deep_000000_000019", np.full((64, 96), 26001), city="more/deep")
    spec = catalog.read_spec_file(path)[0]
    assert len(catalog.open_dataset(spec).records) == 2
    pipe = tmp_path / "gtFine/val/more/deep/deep_000000_000019_gtFine_instanceIds.png"
    pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(DatasetError, match="not a regular file"):
        catalog.open_dataset(spec)


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    path = sets.make(tmp_path, images=1)
    path.write_text(path.read_text().replace("[val]", "[val, train]"))
    with pytest.raises(DatasetError, match=r"folder '.*leftImg8bit/train' does not exist; check `root` and `splits`"):
        catalog.open_dataset(catalog.read_spec_file(path)[1])
    (tmp_path / "leftImg8bit" / "train").mkdir()
    (tmp_path / "gtFine" / "train").mkdir()
    with pytest.raises(DatasetError, match=r"no image is in .*expected <city>/<id>_leftImg8bit.png"):
        catalog.open_dataset(catalog.read_spec_file(path)[1])


def test_hidden_files_are_none(spec: catalog.DatasetSpec, tmp_path: Path) -> None:
    city = tmp_path / "gtFine" / "val" / "aachen"
    (city / "._aachen_000000_000019_gtFine_instanceIds.png").write_text("")
    (tmp_path / "leftImg8bit" / "val" / ".ipynb_checkpoints").mkdir()
    assert len(catalog.open_dataset(spec).records) == 6
    assert read_ids(next(city.glob("aachen*"))).dtype == np.int32
