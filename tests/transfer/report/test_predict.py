"""What is written of a network's findings, without a network."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from pretrain.runtime.config import ConfigError
from tests.disks import fail_at
from transfer.evaluation.miou import Map
from transfer.evaluation.predictions import ImageDetections
from transfer.report import predict
from transfer.report.predict import Output, image_files


def record(number: int, side: int = 200) -> dict[str, Any]:
    return {"file_name": f"{number}.png", "image_id": number, "width": side, "height": side, "annotations": []}


def found(number: int, mask: np.ndarray | None = None) -> ImageDetections:
    """One object in an image, in a box of 106 x 100 pixels."""
    masks = None if mask is None else [mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))]
    box = np.array([[47, 50, 153, 150]], np.float32)
    return ImageDetections(number, box, np.array([0.9], np.float32), np.array([0]), masks)


def test_the_area_is_that_of_the_mask_or_else_of_the_box(tmp_path: Path) -> None:
    place = np.arange(200)
    thin = (np.abs(place[:, None] - place) < 4) & (place[:, None] >= 50) & (place[:, None] < 150)
    for mask, area in ((thin, 700), (None, 106 * 100)):
        output = Output(tmp_path, ["x"], 0.5, False)
        output.add(record(1), found(1, mask))
        output.finish({})
        (annotation,) = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
        assert annotation["area"] == area and ("segmentation" in annotation) == (mask is not None)


def test_an_earlier_predictions_files_stay_until_there_are_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    first = Output(tmp_path, ["x"], 0.5, False)
    first.add(record(1), found(1))
    assert len(first.finish({Path("bad.png"): "no image"})) == 3
    before = listed()
    second = Output(tmp_path, ["x"], 0.5, False)
    assert second.finish({}) == [] and listed() == before
    for number in (1, 2):
        second.add(record(number), found(number))
    assert listed() == before
    with monkeypatch.context() as disk, pytest.raises(OSError, match="predictions.csv"):
        fail_at(disk, "fsync", 2)
        second.finish({})
    assert listed() == before
    assert [path.name for path in second.finish({})] == ["predictions.json", "predictions.csv"]
    assert listed().keys() == {"predictions.json", "predictions.csv"}
    assert len(json.loads(listed()["predictions.json"])["images"]) == 2
    maps = Output(tmp_path, ["x"], 0.5, False)
    maps.add(record(1), Map(1, np.zeros((200, 200), np.int64)))
    assert [path.name for path in maps.finish({})] == ["maps"] and not listed()


def test_an_image_is_in_all_files_or_in_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is interrupted."""
    output = Output(tmp_path, ["x"], 0.5, True)
    Image.new("RGB", (200, 200)).save(tmp_path / "1.png")
    for number, place in enumerate(("_kept", "surest", "draw"), 1):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(predict, place, interrupted)
            output.add(record(number) | {"file_name": str(tmp_path / "1.png")}, found(number))
    output.finish({})
    data = json.loads((tmp_path / "predictions.json").read_text())
    lines = (tmp_path / "predictions.csv").read_text().splitlines()[1:]
    assert [i["id"] for i in data["images"]] == [a["image_id"] for a in data["annotations"]] == [2, 3]
    assert len(lines) == 2


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/b/2.PNG", "a/b/3.txt", "c/4.jpg", "c/folder.jpg/5.jpg")
    found = image_files([f"{tmp_path}/c/*.jpg", str(tmp_path / "a"), f"{tmp_path}/**/1.jpg"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["c/4.jpg", "a/1.jpg", "a/b/2.PNG"]


def test_nothing_hidden_is_an_image_unless_it_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", ".cache/b.jpg", "__MACOSX/c.jpg")
    touch(tmp_path / "empty", "._d.jpg")
    with caplog.at_level(logging.WARNING):
        assert image_files([str(tmp_path)]) == [tmp_path / "a.jpg"]
    assert f"left out of '{tmp_path}', hidden: 4 (._a.jpg, .cache, __MACOSX, ...)" in caplog.text
    assert image_files([f"{tmp_path}/**/*.jpg"]) == [tmp_path / "a.jpg"]
    named = [f"{tmp_path}/._a.jpg", f"{tmp_path}/.cache", f"{tmp_path}/__MACOSX/*.jpg"]
    assert image_files(named) == [tmp_path / name for name in ("._a.jpg", ".cache/b.jpg", "__MACOSX/c.jpg")]
    with pytest.raises(ConfigError, match=r"leads to no image; .*; left out of '.*empty', hidden: 1 \(\._d.jpg\)"):
        image_files([str(tmp_path / "empty")])


def test_a_file_of_several_names_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is spelt, and through links, which are followed into folders, but never in a circle."""
    touch(tmp_path, "set/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "set" / "again.jpg").symlink_to("a.jpg")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "round").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    expected = [Path("set/a.jpg"), Path("set/linked/b.jpg")]
    for names in (["set"], ["set/a.jpg", "set"], ["set/**/*.jpg"], ["set", os.fspath(tmp_path), "set/../set/a.jpg"]):
        assert image_files(names) == expected
