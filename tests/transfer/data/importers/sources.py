"""Small sources of each tool, two images of 40 x 30 pixels, with the same four objects drawn in each dialect."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from tests.transfer.data.sets import picture

TRIANGLE = [[2, 3], [12, 3], [2, 23]]  # 10 x 20 / 2
SQUARE, CIRCLE = (20, 5, 30, 15), (25, 20, 5)


def labelme_shape(label: Any, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def labelme_json(path: Path, image: Any, *shapes: Any, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": "AAAA"}
    path.write_text(json.dumps({**content, "imageHeight": 30, "imageWidth": 40, **more}))


def labelme_source(root: Path) -> Path:
    """An image beside its json, and one in a folder beside that of the jsons, named as on Windows."""
    picture(root / "a.jpg")
    picture(root / "img" / "b.png")
    square = [[SQUARE[2], SQUARE[3]], [SQUARE[0], SQUARE[1]]]
    x, y, r = CIRCLE
    triangle, circle = (
        labelme_shape("cat", "polygon", TRIANGLE),
        labelme_shape("dog", "circle", [[x, y], [x + 3, y + 4]]),
    )
    labelme_json(root / "a.json", "a.jpg", triangle, labelme_shape("dog", "rectangle", square))
    labelme_json(root / "ann" / "b.json", "..\\img\\b.png", circle, triangle)
    return root


def via_region(label: Any, name: str, **shape: Any) -> dict[str, Any]:
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": {"kind": label}}


def via_images() -> dict[str, Any]:
    xs, ys = zip(*TRIANGLE, strict=True)
    x0, y0, x1, y1 = SQUARE
    triangle = via_region("cat", "polygon", all_points_x=xs, all_points_y=ys)
    square = via_region("dog", "rect", x=x0, y=y0, width=x1 - x0, height=y1 - y0)
    x, y, r = CIRCLE
    circle = via_region("dog", "circle", cx=x, cy=y, r=r)
    return {
        "a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [triangle, square], "file_attributes": {}},
        "img/b.png9": {"filename": "img/b.png", "size": 9, "regions": [circle, triangle], "file_attributes": {}},
    }


def via_source(root: Path, content: Any = None) -> Path:
    picture(root / "a.jpg")
    picture(root / "img" / "b.png")
    (root / "via.json").write_text(json.dumps(via_images() if content is None else content))
    return root / "via.json"


def write_csv(path: Path, mark: str = "") -> Path:
    with open(path, "w", newline="") as f:
        rows = csv.writer(f, quoting=csv.QUOTE_ALL)
        header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        f.write(mark + header + "\n")
        for image in via_images().values():
            for i, region in enumerate(image["regions"]):
                shape, attributes = json.dumps(region["shape_attributes"]), json.dumps(region["region_attributes"])
                rows.writerow([image["filename"], image["size"], "{}", len(image["regions"]), i, shape, attributes])
        picture(path.with_name("empty.jpg"))
        rows.writerow(["empty.jpg", 1, "{}", 0, 0, "{}", "{}"])
    return path


def yolo_source(root: Path) -> Path:
    for split, name in (("train", "a.jpg"), ("train", "none.jpg"), ("valid", "b.jpg")):
        picture(root / split / "images" / name)
        (root / split / "labels").mkdir(exist_ok=True)
    polygon = " ".join(f"{x / 40} {y / 30}" for x, y in TRIANGLE)
    (root / "train" / "labels" / "a.txt").write_text(f"1 {25 / 40} {10 / 30} {10 / 40} {10 / 30}\n0 {polygon}\n")
    (root / "valid" / "labels" / "b.txt").write_text(f"0 {polygon}\n\n")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 3\nnames: [cat, dog, bird]\n")
    return root / "data.yaml"
