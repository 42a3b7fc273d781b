"""Small sets in the Cityscapes layout: rectangles as objects, groups, void and stuff."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ROAD, STATIC, PERSON, CAR = 7, 4, 24, 26


def ids_of(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) instance ids: road, a void strip, and rectangles of people and cars, some of them groups or tiny."""
    ids = np.full((height, width), ROAD, np.int32)
    ids[:, : width // 8] = STATIC
    for number in range(int(rng.integers(3, 8))):
        label = int(rng.choice([PERSON, CAR, CAR, 33]))
        x, y = int(rng.integers(0, width - 4)), int(rng.integers(0, height - 4))
        w, h = int(rng.integers(3, 24)), int(rng.integers(3, 24))
        ids[y : y + h, x : x + w] = label if rng.random() < 0.2 else label * 1000 + number
    return ids


def write(root: Path, name: str, ids: np.ndarray, split: str = "val", city: str = "aachen") -> Path:
    """Writes an image and its file of instance ids; returns the latter."""
    images, objects = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    images.mkdir(parents=True, exist_ok=True)
    objects.mkdir(parents=True, exist_ok=True)
    colours = np.stack([ids % 251, ids // 1000, ids % 83], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(images / f"{name}_leftImg8bit.png")
    path = objects / f"{name}_gtFine_instanceIds.png"
    Image.fromarray(ids.astype(np.uint16)).save(path)
    return path


def make(root: Path, images: int = 6, seed: int = 0, size: tuple[int, int] = (64, 96), split: str = "val") -> Path:
    """Writes a set and its spec file, which is returned."""
    rng = np.random.default_rng(seed)
    for i in range(images):
        write(root, f"aachen_{i:06d}_000019", ids_of(rng, *size), split)
    (root / "spec.yaml").write_text(f"name: streets\nformat: cityscapes\nroot: .\nsplits: [{split}]\n")
    return root / "spec.yaml"
