"""Small sets in the DensePose layout: people as rectangles, with points on a made-up surface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from tests.transfer.data.sets import picture

WIDTH, HEIGHT = 120, 90


def part_mask(low: int, high: int) -> dict[str, Any]:
    """A stripe of the box from row `low` to `high`, as run lengths of 256 x 256."""
    mask = np.zeros((256, 256), np.uint8, order="F")
    mask[low:high] = 1
    rle = mask_util.encode(mask)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def points(rng: np.random.Generator, count: int = 12) -> dict[str, Any]:
    """DensePose's keys of one object: head and torso as coarse parts, points anywhere on the surface."""
    masks: list[Any] = [[] for _ in range(14)]
    masks[13], masks[0] = part_mask(0, 90), part_mask(90, 256)
    return {
        "dp_x": rng.uniform(0, 255, count).tolist(),
        "dp_y": rng.uniform(0, 255, count).tolist(),
        "dp_I": rng.integers(1, 25, count).astype(float).tolist(),
        "dp_U": rng.uniform(0, 1, count).tolist(),
        "dp_V": rng.uniform(0, 1, count).tolist(),
        "dp_masks": masks,
    }


def contents(seed: int = 0, images: int = 4) -> dict[str, Any]:
    """The json: two people with points in every image, one without, and a crowd."""
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    data["categories"].append({"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []})
    for number in range(40, 40 + images):
        file = f"COCO_val2014_{number:012d}.jpg"
        data["images"].append({"id": number, "width": WIDTH, "height": HEIGHT, "file_name": file})
        for kind in ("points", "points", "plain", "crowd"):
            w, h = int(rng.integers(40, 70)), int(rng.integers(40, 60))
            x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1, "image_id": number, "category_id": 1, "area": w * h,
                    "bbox": [x, y, w, h], "iscrowd": int(kind == "crowd"), "keypoints": [x, y, 2], "num_keypoints": 1,
                    **(points(rng) if kind == "points" else {}),
                }
            )  # fmt: skip
    return data


def write(root: Path, data: dict[str, Any] | None = None) -> Path:
    """Writes images, json and spec file of the set `people_val`; returns the spec file."""
    data = contents() if data is None else data
    for image in data["images"]:
        picture(root / "val2014" / image["file_name"], WIDTH, HEIGHT)
    (root / "densepose.json").write_text(json.dumps(data))
    spec = "name: people\nformat: densepose\nroot: .\nsplits: {val: {images: val2014, annotations: densepose.json}}\n"
    (root / "spec.yaml").write_text(spec)
    return root / "spec.yaml"
