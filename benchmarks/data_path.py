#!/usr/bin/env python
"""The data path of MoCo v2 on one core: an image file -> two crops of 224 pixels.

    python benchmarks/data_path.py                                  # made-up JPEGs of 500 x 375 pixels, about 110 kB
    python benchmarks/data_path.py --images imagenet/train --count 64

The reference is the plain pipeline of Pillow and torchvision, written anew from its description: open as RGB; twice:
random resized crop (0.2-1), colour jitter, grey, blur, flip, to float, normalise. Ours hands bytes over and leaves
normalising to the training device; what that takes on this CPU is shown in a line of its own and counted. The line of
AUG.BACKEND gpu is what a loader then does: decoding and cropping.

Every round runs all lines one after the other, in processor seconds of this process; shown are median
[smallest-largest] over the rounds, the ratio round by round. The hand-over is wall time from one loader process.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import torch
from jpegs import read
from PIL import Image, ImageFilter
from show import machine, spread
from torch.utils.data import DataLoader
from torchvision import transforms as T

from pretrain.data.augment import MEAN, STD, TwoCrops, normalise, recipe
from pretrain.data.decode import decode, decode_array
from pretrain.data.device_augment import CropRecipe
from pretrain.data.fast_augment import FastRecipe

CPU = torch.device("cpu")


def reference() -> Callable[[bytes], Any]:
    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    view = T.Compose(
        [
            T.RandomResizedCrop(224, scale=(0.2, 1.0)),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.RandomApply([T.Lambda(blur)], p=0.5),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )

    def two_crops(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return view(image), view(image)

    return two_crops


def normalised(views: Any) -> Any:
    return [normalise(v.unsqueeze(0), CPU) for v in views]


def candidates() -> dict[str, Callable[[bytes], Any]]:
    fast, pil, crops = TwoCrops(FastRecipe("v2")), TwoCrops(recipe("v2")), TwoCrops(CropRecipe("v2"))
    seed = partial(random.getrandbits, 32)  # other draws for every image, as in a run
    return {
        "reference": reference(),
        "ours": lambda data: fast(decode_array(data, ""), seed()),
        "ours, normalised here": lambda data: normalised(fast(decode_array(data, ""), seed())),
        "ours, Pillow's decoder": lambda data: fast(decode(data, ""), seed()),
        "ours, AUG.BACKEND gpu": lambda data: crops(decode_array(data, ""), seed()),
        "ours, AUG.BACKEND pil": lambda data: pil(decode(data, ""), seed()),
        "decoding alone, ours": lambda data: decode_array(data, ""),
        "decoding alone, Pillow": lambda data: decode(data, ""),
    }


class Handed:
    """Batches of two views each, as a loader process hands them over."""

    def __init__(self, dtype: torch.dtype, batch: int, length: int):
        self.views, self.batch, self.length = torch.zeros(2, 3, 224, 224, dtype=dtype), batch, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return [torch.stack([view] * self.batch) for view in self.views]


def hand_over(dtype: torch.dtype, batch: int = 64, length: int = 20) -> float:
    """Milliseconds per image for two crops to be stacked, sent and received."""
    batches = iter(DataLoader(Handed(dtype, batch, length), batch_size=None, num_workers=1))  # type: ignore[arg-type]
    next(batches)
    start = time.perf_counter()
    received = sum(1 for _ in batches)
    return 1000 * (time.perf_counter() - start) / (received * batch)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", default="", help="a folder of .jpg files; without, they are made up")
    p.add_argument("--count", type=int, default=32, help="images in a round")
    p.add_argument("--rounds", type=int, default=15)
    args = p.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    files = read(args.images, args.count)
    runs = candidates()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            torch.manual_seed(turn)
            random.seed(turn)
            start = time.process_time()
            for data in files:
                run(data)
            times[name].append(1000 * (time.process_time() - start) / len(files))
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up

    print(machine("torch", "torchvision", "pillow", "opencv-python-headless"))
    sizes = [len(data) / 1000 for data in files]
    print(f"{len(files)} JPEGs of {statistics.mean(sizes):.0f} kB on average, {args.rounds} rounds, one core")
    for name, values in times.items():
        ratios = [r / v for r, v in zip(times["reference"], values, strict=True)]
        rate = 1000 / statistics.median(values)
        print(f"{name:24s} {spread(values, 2):>20s} ms/image {rate:6.0f} images/s  {spread(ratios, 2)}x")
    hands = {dtype: [hand_over(dtype) for _ in range(3)] for dtype in (torch.float32, torch.uint8)}
    for dtype, values in hands.items():
        ratios = [r / v for r, v in zip(hands[torch.float32], values, strict=True)]
        print(f"{f'hand-over, {dtype}':24s} {spread(values, 2):>20s} ms/image {'':17s} {spread(ratios, 2)}x")


if __name__ == "__main__":
    main()
