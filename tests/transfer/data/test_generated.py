"""The generated set: the same bytes from the same seed, whole or absent, and annotations that fit the pictures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from transfer.data import catalog, doctor, generated, generated_scenes
from transfer.data.generated import CLASS_NAMES, Manifest, Parameters, write
from transfer.data.spec import DatasetError

COUNTS = {"iconic_train": 16, "iconic_val": 8, "scenes_trainval": 12, "scenes_test": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set") / "generated"
    write(root, seed=3, **COUNTS)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_parameters_same_bytes_and_other_seed_other_bytes(root: Path, tmp_path: Path) -> None:
    again, other = write(tmp_path / "again", seed=3, **COUNTS), write(tmp_path / "other", seed=4, **COUNTS)
    first = Manifest.read(root)
    assert first == again and contents(root) == contents(tmp_path / "again")
    assert first is not None and first.digest != other.digest


def test_more_images_leave_the_earlier_ones_alone(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "more", seed=3, iconic_train=24, iconic_val=9, scenes_trainval=14, scenes_test=7)
    more = contents(tmp_path / "more")
    images = {name: data for name, data in contents(root).items() if name.endswith((".jpg", ".xml"))}
    assert len(images) == 16 + 8 + 2 * (12 + 5)
    assert all(more[name] == data for name, data in images.items())


def test_a_second_call_returns_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "_draw_all", None)
    assert write(root, seed=3, **COUNTS) == Manifest.read(root)


def test_other_parameters_are_refused_or_forced(tmp_path: Path) -> None:
    few = {"iconic_val": 0, "scenes_trainval": 0, "scenes_test": 0}
    write(tmp_path / "set", seed=0, iconic_train=8, **few)
    with pytest.raises(DatasetError, match="other parameters .*seed 0 -> 1.*force"):
        write(tmp_path / "set", seed=1, iconic_train=8, **few)
    assert write(tmp_path / "set", seed=1, iconic_train=4, **few, force=True).parameters.seed == 1
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 4


def test_an_interrupted_call_leaves_nothing_and_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"iconic_train": 8, "iconic_val": 0, "scenes_trainval": 2, "scenes_test": 0}
    whole = write(tmp_path / "whole", **few)
    with monkeypatch.context() as patch:
        patch.setattr(generated_scenes, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut", **few)
    assert not (tmp_path / "cut").exists()
    assert write(tmp_path / "cut", **few) == whole
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*.partial"))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("thesis")
    with pytest.raises(DatasetError, match="holds no generated set"):
        write(tmp_path, **COUNTS, force=True)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError, match="is no manifest"):
        write(tmp_path, **COUNTS)
    assert (tmp_path / "mine.txt").read_text() == "thesis"


@pytest.mark.parametrize("fault", [{"scenes_test": -1}, {"iconic_size": (16, 72)}, {"quality": 0}])
def test_impossible_parameters_are_refused(fault: dict) -> None:
    with pytest.raises(DatasetError, match=next(iter(fault))):
        Parameters(**fault)


def test_iconic_classes_are_balanced(root: Path) -> None:
    for part, each in (("train", 2), ("val", 1)):
        found = Counter(path.parent.name for path in (root / "iconic" / part).rglob("*.jpg"))
        assert found == dict.fromkeys(CLASS_NAMES, each)
    assert cv2.imread(str(next((root / "iconic").rglob("*.jpg")))).shape == (72, 72, 3)


def test_every_shape_and_every_texture_has_two_classes() -> None:
    shapes, textures = zip(*generated_scenes.CLASSES.values(), strict=True)
    assert set(Counter(shapes).values()) == set(Counter(textures).values()) == {2}


def test_the_spec_files_work_and_the_doctor_finds_nothing(root: Path) -> None:
    files = [root / "voc.yaml", root / "coco.yaml"]
    names = ["generated_trainval", "generated_test", "generated_coco_train", "generated_coco_val"]
    specs = catalog.resolve(names, files)
    for spec in specs:
        report = doctor.check(spec)
        assert report.ok and catalog.class_names(spec) == CLASS_NAMES, report
    for voc, coco in ((specs[0], specs[2]), (specs[1], specs[3])):
        for a, b in zip(catalog.load(voc), catalog.load(coco), strict=True):
            assert (a["file_name"], a["height"], a["width"]) == (b["file_name"], b["height"], b["width"])
            assert int(a["image_id"]) == b["image_id"]
            assert [(o["bbox"], o["category_id"]) for o in a["annotations"]] == [
                (o["bbox"], o["category_id"]) for o in b["annotations"]
            ]


def test_masks_are_disjoint_tight_and_of_the_stated_area(root: Path) -> None:
    for image in catalog.load(catalog.read_spec_file(root / "coco.yaml")[0]):
        seen = np.zeros((image["height"], image["width"]), int)
        for thing in image["annotations"]:
            rles = mask_util.frPyObjects(thing["segmentation"], image["height"], image["width"])
            mask = mask_util.decode(mask_util.merge(rles))
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert thing["bbox"] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            seen += mask
        assert seen.max(initial=0) <= 1
    areas = [a["area"] for a in json.loads((root / "coco" / "instances_train.json").read_text())["annotations"]]
    assert min(areas) >= generated_scenes.MIN_PIXELS


def test_scenes_vary_in_size_and_hide_objects() -> None:
    scenes = [generated_scenes.draw(np.random.default_rng(i), i, (160, 128))[1] for i in range(40)]
    things = [thing for scene in scenes for thing in scene.things]
    assert len({(scene.width, scene.height) for scene in scenes}) > 20
    assert all(abs(scene.width * scene.height / (160 * 128) - 1) < 0.02 for scene in scenes)
    assert all(scene.things for scene in scenes)
    for flag in ("truncated", "occluded", "difficult"):
        assert 0.02 < np.mean([getattr(thing, flag) for thing in things]) < 0.6, flag


@pytest.mark.parametrize("seed", range(5))
def test_polygons_give_the_mask_back(seed: int) -> None:
    """Random masks with many parts, holes, single pixels and objects at the border."""
    noise = np.random.default_rng(seed).random((33, 47))
    mask = noise > 0.5 if seed == 0 else cv2.GaussianBlur(noise, (0, 0), 2) > 0.5
    parts = mask_util.frPyObjects(generated_scenes.polygons(mask), *mask.shape)
    assert (mask_util.decode(mask_util.merge(parts)).astype(bool) == mask).all()
    assert generated_scenes.polygons(np.zeros((4, 4), bool)) == []
