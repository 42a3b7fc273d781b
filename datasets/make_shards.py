#!/usr/bin/env python
"""Packs images into tar shards (WebDataset's layout) to pre-train from, with an index beside each.

    python datasets/make_shards.py --images imagenet/train --output /data/in
    python tools/train_moco.py --config-file ... DATA.TRAIN '/data/in/shard-{000000..000146}.tar'

Images are copied as they are, under running numbers, in an order shuffled by --seed: a shard is then a random sample,
and so are the few shards that training shuffles together (DATA.SHUFFLE_SHARDS). names.txt says what each member was.
The same images and arguments give the same tar files. The output folder appears when everything is written.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from pretrain.data.images import Images, find_images
from pretrain.data.shards import open_shards
from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.config import ConfigError
from pretrain.runtime.limits import at_least, between
from pretrain.runtime.log import progress

NAMES = "names.txt"
_BLOCK = 512


def cost(data: bytes) -> int:
    """Bytes that an image takes in a tar file: a header, and its contents filled up to whole blocks."""
    return _BLOCK + -(-len(data) // _BLOCK) * _BLOCK


def write(images: Images, order: list[int], folder: Path, max_bytes: int, max_count: int) -> Iterator[tuple[str, str]]:
    """Writes shards, and yields each member's place and what was read for it.

    Args:
        max_bytes, max_count: a shard is closed before it would exceed one of them; one image always fits.
    """
    shards = size = count = 0
    with ExitStack() as opened:
        for number, index in enumerate(order):
            data = images.read(index)
            if not shards or count == max_count or size + cost(data) > max_bytes:
                opened.close()
                name, size, count = f"shard-{shards:06d}.tar", 0, 0
                file = opened.enter_context(atomic_write(folder / name))
                tar = opened.enter_context(tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT))
                shards += 1
            source = images.name(index)
            member = tarfile.TarInfo(f"{number:09d}{os.path.splitext(source)[1].lower()}")  # mtime and owner are 0
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            size, count = size + cost(data), count + 1
            yield f"{name}/{member.name}", source


def make(args: argparse.Namespace) -> str:
    """Makes args.output; returns what DATA.TRAIN takes.

    Raises:
        ConfigError: no images, or an output folder that is there already.
        BadImageError: an image that cannot be read.
    """
    images = find_images(args.images, key="--images")
    if args.output.exists():
        raise ConfigError(f"--output '{args.output}' exists; remove it, or choose another folder")
    order = list(range(len(images)))
    if args.seed >= 0:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed)).tolist()
    partial = args.output.with_name(f".{args.output.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    partial.mkdir(parents=True)
    try:
        with atomic_write(partial / NAMES, "w") as names, progress(len(images), "writing shards", "img") as bar:
            for place, source in write(images, order, partial, args.max_bytes, args.max_count):
                names.write(f"{place}\t{source}\n")
                bar.update()
        shards = sorted(map(str, partial.glob("*.tar")))
        open_shards(shards)  # writes indices, and finds what was not written well
        partial.rename(args.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    first, last = Path(shards[0]).stem, Path(shards[-1]).stem
    numbers = f"{{{first[-6:]}..{last[-6:]}}}" if len(shards) > 1 else first[-6:]
    return str(args.output / f"shard-{numbers}.tar")


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("--images", required=True, metavar="SOURCE", help="folder of images, or .txt list: as DATA.TRAIN")
    p.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to make")
    p.add_argument("--max-bytes", type=number(at_least(1)), default=2**30, help="of a shard (%(default)s)")
    p.add_argument("--max-count", type=number(at_least(1)), default=10000, help="images in a shard (%(default)s)")
    p.add_argument(
        "--seed",
        type=number(between(-1, 2**63 - 1)),
        default=0,
        help="of the shuffling; -1: keep the order (%(default)s)",
    )
    args = p.parse_args(argv)
    print(f"DATA.TRAIN '{make(args)}'")
    return 0


if __name__ == "__main__":
    run(main)
