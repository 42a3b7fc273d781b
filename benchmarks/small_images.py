#!/usr/bin/env python
"""Small images from a loader with and without DATA.CACHE: two views of 32 pixels by MoCo v2's recipe.

    python benchmarks/small_images.py                              # made-up JPEGs of 72 x 72 pixels
    python benchmarks/small_images.py --images my_images --count 1000 --crop 32

Every round takes all images once by each way, one after the other, in processor seconds of this process, as one loader
process would: read, decode, draw, augment, stack batches of 128. Shown are median [smallest-largest] over the rounds,
the ratio round by round. That the batches are equal is looked at too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import torch
from jpegs import made_up
from show import machine, spread
from torch import Tensor

from pretrain.build import build_dataset
from pretrain.config import get_cfg
from pretrain.data.images import find_images
from pretrain.data.views import ViewDataset, collate

BATCH = 128
WAYS = (("decoded when used", 0), ("DATA.CACHE", 1))  # and the share of --cache that it has


def dataset(folder: str, backend: str, crop: int, cache: float) -> ViewDataset:
    cfg = get_cfg()
    cfg.AUG.merge_from_other_cfg(type(cfg)({"RECIPE": "v2", "CROP_SIZE": crop, "BACKEND": backend}))
    cfg.DATA.CACHE = cache
    return build_dataset(cfg, find_images(folder))


def an_epoch(images: ViewDataset, count: int) -> Tensor:
    """What all views add up to."""
    total = torch.zeros((), dtype=torch.int64)
    for first in range(0, count, BATCH):
        batch = collate([images[(0, index)] for index in range(first, min(first + BATCH, count))])
        assert batch.views is not None, batch.bad
        total += sum(view.sum() for view in batch.views)
    return total


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", default="", help="a folder of images; without, they are made up")
    p.add_argument("--count", type=int, default=512, help="images in a round")
    p.add_argument("--crop", type=int, default=32, help="pixels")
    p.add_argument("--cache", type=float, default=1.0, help="DATA.CACHE, gigabytes")
    p.add_argument("--rounds", type=int, default=7)
    args = p.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as made:
        for seed in range(0 if args.images else args.count):
            (Path(made) / f"{seed:06d}.jpg").write_bytes(made_up(seed, 72, 72))
        folder = args.images or made
        print(machine("torch", "torchvision", "pillow", "opencv-python-headless"))
        for backend in ("opencv", "pil"):
            ways = {f"{backend}, {name}": dataset(folder, backend, args.crop, args.cache * on) for name, on in WAYS}
            compare(ways, args.count, args.rounds)


def compare(ways: dict[str, ViewDataset], count: int, rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in ways}
    sums: list[Tensor] = []
    for _ in range(rounds + 1):
        for name, images in ways.items():
            size = min(count, len(images))
            start = time.process_time()
            sums.append(an_epoch(images, size))
            times[name].append(1000 * (time.process_time() - start) / size)
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up
    plain = next(iter(times.values()))
    for name, values in times.items():
        ratios = [reference / value for reference, value in zip(plain, values, strict=True)]
        rate = 1000 / sorted(values)[len(values) // 2]
        print(f"{name:26s} {spread(values, 2):>18s} ms/image {rate:6.0f} images/s  {spread(ratios, 2)}x")
    print("equal views" if len({int(total) for total in sums}) == 1 else "the views DIFFER")


if __name__ == "__main__":
    main()
