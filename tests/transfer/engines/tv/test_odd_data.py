"""What real data sets hold and should not: trained through as by Detectron2, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from tests.architectures import ARCHITECTURES, options
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.config.load import load_config
from transfer.convert.convert import convert
from transfer.data.catalog import DatasetError
from transfer.engines.tv.engine import TorchvisionEngine

Json = dict[str, Any]


def first_of(data: Json, image: int) -> Json:
    """The first annotation of the image at this place."""
    return next(a for a in data["annotations"] if a["image_id"] == data["images"][image]["id"])


def no_boxes(data: Json, folder: Path) -> None:
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != data["images"][0]["id"]]


def no_area(data: Json, folder: Path) -> None:
    first_of(data, 0)["bbox"][2] = 0.0


def crowd(data: Json, folder: Path) -> None:
    annotation, image = first_of(data, 0), data["images"][0]
    rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], image["height"], image["width"]))
    annotation["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    annotation["iscrowd"] = 1


def rle(data: Json, folder: Path) -> None:
    crowd(data, folder)
    first_of(data, 0)["iscrowd"] = 0


def uncompressed_rle(data: Json, folder: Path) -> None:
    annotation, image = first_of(data, 0), data["images"][0]
    size = image["height"], image["width"]
    flat = mask_util.decode(mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], *size))).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    annotation["segmentation"] = {"size": list(size), "counts": ([0] if flat[0] else []) + runs}


def gap(data: Json, folder: Path) -> None:
    """Category ids 10, 20, ... instead of 1, 2, ..."""
    for category in data["categories"]:
        category["id"] *= 10
    for annotation in data["annotations"]:
        annotation["category_id"] *= 10


def repaint(mode: str) -> Callable[[Json, Path], None]:
    def change(data: Json, folder: Path) -> None:
        path = folder / "scenes" / "JPEGImages" / data["images"][0]["file_name"]
        with Image.open(path) as image:
            image.convert(mode).save(path)

    return change


def another_size(data: Json, folder: Path) -> None:
    data["images"][0]["width"] += 7


def truncated(data: Json, folder: Path) -> None:
    path = folder / "scenes" / "JPEGImages" / data["images"][0]["file_name"]
    path.write_bytes(path.read_bytes()[:300])


@pytest.fixture
def train(generated: Path, tmp_path: Path):
    """Two iterations of Mask R-CNN on a changed copy of the generated set, every image in both batches or none."""

    def run(change: Callable[[Json, Path], None], *opts: str):
        folder = tmp_path / "data"
        shutil.copytree(generated, folder)
        for split in ("train", "val"):
            path = folder / "coco" / f"instances_{split}.json"
            data = json.loads(path.read_text())
            if split == "train":  # two images: both are in every batch
                data["images"] = data["images"][:2]
                ids = {image["id"] for image in data["images"]}
                data["annotations"] = [a for a in data["annotations"] if a["image_id"] in ids]
            if split == "train" or change is gap:
                change(data, folder)
            path.write_text(json.dumps(data))
        words = [*options("R18-FPN-mask", folder, tmp_path), "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
        cfg = load_config(ARCHITECTURES["R18-FPN-mask"][0], [*words, "TEST.PRECISE_BN.ENABLED", "False", *opts])
        return TorchvisionEngine().train(cfg)

    return run


@pytest.mark.parametrize(
    ("change", "opts"),
    [
        (no_boxes, ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]),
        (crowd, []),
        (rle, ["INPUT.MASK_FORMAT", "bitmask"]),
        (uncompressed_rle, ["INPUT.MASK_FORMAT", "bitmask"]),
        (gap, []),
        (repaint("L"), []),
        (repaint("CMYK"), []),
    ],
    ids=["no boxes", "crowd", "RLE", "uncompressed RLE", "gap in the ids", "grey", "CMYK"],
)
def test_trained_through(train, change, opts):
    result = train(change, *opts)
    assert result.iterations == 2 and {"bbox/AP", "segm/AP"} <= result.metrics.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rle, "given as RLE, not as polygons, in .*00000..jpg; set INPUT.MASK_FORMAT bitmask"),
        (another_size, "size differs from its annotation; correct the annotation: 1 '.*' is "),
        (truncated, "image cannot be read: 1 "),
    ],
    ids=["RLE as polygons", "another size", "truncated"],
)
def test_refused_in_one_sentence(train, change, message):
    with pytest.raises((DatasetError, ConfigError), match=message):
        train(change)


def test_a_box_without_area_is_left_out(train):
    """As Detectron2's mapper does; the rest of the image trains."""
    assert train(no_area).iterations == 2


def test_weights_of_another_depth_are_refused(train, tmp_path):
    (tmp_path / "w").mkdir()
    torch.save(moco(trunk(50)), tmp_path / "w" / "moco.pth.tar")
    convert(tmp_path / "w" / "moco.pth.tar", tmp_path / "w" / "trunk.pkl")
    with pytest.raises((ConfigError, CheckpointError), match="DEPTH"):
        train(lambda data, folder: None, "MODEL.WEIGHTS", str(tmp_path / "w" / "trunk.pkl"))
