"""Small datasets on disk for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.data.spec import DatasetSpec

CAT, DOG = "cat", "dog"


def picture(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(shade).save(path)


def voc_object(name: str, box: tuple[float, float, float, float], difficult: int | None = 0) -> str:
    """One <object>; `box` as the XML has it, 1-based. `difficult` None leaves the tag out."""
    tag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>{tag}<bndbox>{corners}</bndbox></object>"
    )


def voc_image(root: Path, image_id: str, *objects: str, size: tuple[int, int] = (40, 30), suffix: str = ".jpg") -> None:
    picture(root / "JPEGImages" / f"{image_id}{suffix}", 40, 30)
    (root / "Annotations").mkdir(exist_ok=True)
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{stated}{''.join(objects)}</annotation>")


def voc_split(root: Path, split: str, *ids: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))


def voc_set(root: Path) -> DatasetSpec:
    """Three images: two objects, one difficult object, none."""
    voc_image(root, "b2", voc_object(DOG, (1, 1, 40, 30)), voc_object(CAT, (5, 6, 20, 21), None))
    voc_image(root, "a1", voc_object(CAT, (3, 4, 10, 12), 1))
    voc_image(root, "c3")
    voc_split(root, "train", "b2", "a1", "c3")
    return DatasetSpec("pets_train", "voc", root, "train", (CAT, DOG), 2007)


def coco_set(root: Path, **changes: Any) -> DatasetSpec:
    """Two images listed out of order, categories 3 and 7 listed out of order, polygon, crowd RLE, a hopeless polygon.

    `changes` replace whole lists of the json.
    """
    picture(root / "images" / "nine.jpg")
    picture(root / "images" / "sub" / "two.jpg")
    crowd = {"size": [30, 40], "counts": [300, 60, 840]}
    data: dict[str, Any] = {
        "images": [
            {"id": 9, "file_name": "nine.jpg", "width": 40, "height": 30},
            {"id": 2, "file_name": "sub/two.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 7, "name": DOG}, {"id": 3, "name": CAT}],
        "annotations": [
            box(1, 9, 7, [1.5, 2, 10, 8.25], segmentation=[[1.5, 2, 11.5, 2, 11.5, 10.25], [1, 1, 2]]),
            box(2, 9, 3, [10, 0, 2, 30], segmentation=crowd, iscrowd=1),
            box(3, 2, 3, [0, 0, 4, 4], segmentation=[[0, 0, 4, 4]]),
            box(4, 2, 3, [0, 0, 40, 30]),
        ],
    } | changes
    (root / "train.json").write_text(json.dumps(data))
    return DatasetSpec("pets_train", "coco", root, "train", None, None, root / "images", root / "train.json")


def box(number: int, image: int, category: int, xywh: list[float], **more: Any) -> dict[str, Any]:
    """One COCO annotation."""
    area = xywh[2] * xywh[3]
    ids = {"id": number, "image_id": image, "category_id": category}
    return ids | {"bbox": xywh, "area": area, "iscrowd": 0} | more


POINTS = ("nose", "left_hand", "right_hand")


def keypoint_set(root: Path, name: str = "poses_train", spec: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A spec file of one split, "train", with a category of three points; ids with gaps, an unlabelled object, a crowd.

    Args:
        spec: more keys of the spec file.
        changes: replace whole lists of the json.
    """
    picture(root / "images" / "a.jpg")
    picture(root / "images" / "b.jpg")
    seen, hidden, none = [4, 5, 2, 12, 8, 2, 6.5, 20, 2], [20, 5, 1, 30, 9, 2, 0, 0, 0], [0] * 9
    data: dict[str, Any] = {
        "images": [
            {"id": 70, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 0, "file_name": "b.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 5, "name": "person", "keypoints": list(POINTS), "skeleton": [[1, 2], [1, 3]]}],
        "annotations": [
            box(0, 70, 5, [2, 3, 14, 20], keypoints=seen, num_keypoints=3),
            box(8, 70, 5, [18, 2, 15, 12], keypoints=hidden, num_keypoints=2),
            box(3, 0, 5, [0, 0, 9, 9], keypoints=none, num_keypoints=0),
            box(4, 0, 5, [1, 1, 30, 20], keypoints=none, num_keypoints=0, iscrowd=1),
        ],
    } | changes
    (root / "train.json").write_text(json.dumps(data))
    keys = {"name": name.rpartition("_")[0], "format": "coco", "root": ".", **(spec or {})}
    split = {"images": "images", "annotations": "train.json"}
    (root / "poses.yaml").write_text(json.dumps({**keys, "splits": {name.rpartition("_")[2]: split}}))
    return root / "poses.yaml"
