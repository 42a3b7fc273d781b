"""Small sets in the LVIS layout: rectangles of many classes, few of them in an image, annotated in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.transfer.data.sets import picture

CLASSES = 12


def contents(seed: int = 0, images: int = 10, exhaustive: bool = False) -> dict[str, Any]:
    """The json: class i is in about one image of i; `exhaustive`: every class that is not there is known to be absent.

    Ids are such as LVIS has them: of categories from 1, of images any.
    """
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for c in range(1, CLASSES + 1):
        data["categories"].append({"id": c, "name": f"thing_{c}", "frequency": "rcf"[(c - 1) * 3 // CLASSES]})
    for i in range(images):
        number = 1000 - 7 * i
        here = [c for c in range(1, CLASSES + 1) if rng.random() < c / CLASSES]
        others = [c for c in range(1, CLASSES + 1) if c not in here]
        absent = others if exhaustive else others[::2]
        data["images"].append(
            {
                "id": number, "width": 120, "height": 90, "file_name": f"COCO_val2014_{number:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.jpg", "neg_category_ids": absent,
                "not_exhaustive_category_ids": [] if exhaustive else here[::3],
            }
        )  # fmt: skip
        for c in here:
            for _ in range(int(rng.integers(1, 3))):
                w, h = int(rng.integers(8, 70)), int(rng.integers(8, 60))
                x, y = int(rng.integers(0, 120 - w)), int(rng.integers(0, 90 - h))
                data["annotations"].append(
                    {
                        "id": len(data["annotations"]) + 1, "image_id": number, "category_id": c, "area": w * h,
                        "bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    }
                )  # fmt: skip
    return data


def write(root: Path, data: dict[str, Any]) -> Path:
    """Writes images, json and spec file; returns the spec file."""
    for image in data["images"]:
        picture(root / "val2017" / f"{image['id']:012d}.jpg", 120, 90)
    (root / "lvis.json").write_text(json.dumps(data))
    spec = "name: tail\nformat: lvis\nroot: .\nsplits: {val: {images: ., annotations: lvis.json}}\n"
    (root / "spec.yaml").write_text(spec)
    return root / "spec.yaml"
