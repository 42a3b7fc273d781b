"""Small stand-ins for what the pages take as given: images, VOC, COCO, own data, archives, a ResNet-18, a run."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml

from tests import networks
from tests.docs.commands import PAGES, named_files
from tests.transfer.convert.checkpoints import moco, trunk
from tests.transfer.data.importers.sources import TRIANGLE, labelme_json, labelme_shape, via_source, yolo_source
from tests.transfer.data.sets import picture
from transfer.convert.convert import convert
from transfer.data import coco, voc
from transfer.data.generated import CLASS_NAMES
from transfer.data.generated import write as generate

SPLITS = {"train": "trainval", "val": "trainval", "trainval": "trainval", "test": "test"}


def make(root: Path, shrink: Sequence[str]) -> None:
    """Everything, under the names that the pages use.

    Args:
        shrink: options that make a fine-tuning small; experiment files that pages write get them, and two trials.
    """
    drawn = root / "drawn"
    generate(drawn, seed=0, iconic_train=16, iconic_val=8, scenes_trainval=6, scenes_test=4)
    shutil.copytree(drawn / "iconic", root / "imagenet")
    shutil.copytree(drawn / "iconic" / "train", root / "my_images")
    for year in (2007, 2012):
        voc_set(drawn, root / "datasets" / f"VOC{year}", voc.CLASS_NAMES)
    voc_set(drawn, root / "data" / "cells", ("WBC", "RBC", "Platelets"))
    folder = root / "datasets" / "coco"
    coco_set(drawn, folder, coco.CLASS_NAMES, lambda s: (f"{s}2017", f"annotations/instances_{s}2017.json"))
    coco_set(drawn, root / "data" / "shapes", ("disk", "star"), lambda s: (s, f"annotations/{s}.json"))
    archives(root / "datasets", root / "home" / "Downloads")
    other_tools(drawn, root)

    torch.save(moco(trunk(18)), root / "moco_v2_800ep.pth.tar")
    convert(root / "moco_v2_800ep.pth.tar", root / "moco_v2.pkl")
    torch.save(trunk(18), root / "other.pth")
    (root / "weights").mkdir()
    convert(root / "other.pth", root / "weights" / "MSRA-R-50.pkl")
    networks.save(networks.config("R18-C4", drawn, "OUTPUT_DIR", str(root / "output" / "cells")))
    for page in PAGES:
        for name, text in named_files(page).items():
            data = yaml.safe_load(text)
            if "transfer" in data:
                data["trials"] = 2
                data["transfer"].setdefault("opts", []).extend(shrink)
            (root / name).write_text(yaml.safe_dump(data))


def voc_set(drawn: Path, root: Path, classes: Sequence[str]) -> None:
    """The drawn scenes as a set in the VOC layout whose classes are called otherwise."""
    shutil.copytree(drawn / "scenes", root)
    for file in (root / "Annotations").glob("*.xml"):
        text = file.read_text()
        for i, name in enumerate(CLASS_NAMES):
            text = text.replace(f"<name>{name}</name>", f"<name>{classes[i % len(classes)]}</name>")
        file.write_text(text)
    main = root / "ImageSets" / "Main"
    for split, source in SPLITS.items():
        (main / f"{split}.txt").write_text((drawn / "scenes" / "ImageSets" / "Main" / f"{source}.txt").read_text())


def coco_set(drawn: Path, root: Path, classes: Sequence[str], places: Callable[[str], tuple[str, str]]) -> None:
    """The drawn scenes as a set in the COCO layout; `places`: split -> image folder and json, below `root`."""
    for split in ("train", "val"):
        images, annotations = (root / name for name in places(split))
        data = json.loads((drawn / "coco" / f"instances_{split}.json").read_text())
        shutil.copytree(drawn / "scenes" / "JPEGImages", images)
        data["categories"] = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
        for box in data["annotations"]:
            box["category_id"] = 1 + box["category_id"] % min(len(classes), len(CLASS_NAMES))
        annotations.parent.mkdir(parents=True, exist_ok=True)
        annotations.write_text(json.dumps(data))


def other_tools(drawn: Path, root: Path) -> None:
    """Sets as other tools leave them."""
    for i in range(8):
        picture(root / "photos" / f"{i}.jpg")
        labelme_json(root / "photos" / f"{i}.json", f"{i}.jpg", labelme_shape("cat", "polygon", TRIANGLE))
    yolo_source(root / "chess")
    for split in ("train", "val"):
        via_source(root / "balloon" / split)
    for split in ("train", "valid"):
        for folder in ("Annotations", "JPEGImages"):
            shutil.copytree(drawn / "scenes" / folder, root / "signs" / split, dirs_exist_ok=True)
    voc_set(drawn, root / "data" / "bare", ("WBC", "RBC", "Platelets"))
    shutil.rmtree(root / "data" / "bare" / "ImageSets")
    coco_set(drawn, root / "data" / "cvat", ("cat", "dog"), lambda s: (f"images/{s}", f"annotations/{s}.json"))
    (root / "data" / "cvat" / "annotations" / "train.json").rename(
        root / "data" / "cvat" / "annotations" / "instances_default.json"
    )


def archives(datasets: Path, folder: Path) -> None:
    """The three official VOC archives, of the sets below `datasets`."""
    folder.mkdir(parents=True)
    for name in ("VOCtrainval_06-Nov-2007", "VOCtest_06-Nov-2007", "VOCtrainval_11-May-2012"):
        year = re.sub(".*-", "", name)
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            tar.add(datasets / f"VOC{year}", f"VOCdevkit/VOC{year}")
