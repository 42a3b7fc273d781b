#!/usr/bin/env python
"""Splits a set into training and test images at random, from a seed.

    python datasets/make_splits.py data/cells --shares trainval=0.8 test=0.2
    python datasets/make_splits.py cvat/annotations/instances_default.json --shares train=0.8 val=0.2

For a folder in the Pascal VOC layout it writes ImageSets/Main/<split>.txt, for a COCO json <its stem>_<split>.json
beside it. Existing files are kept, unless --force is given. A test set is too easy if images of one scene or video fall
into both splits: split such sets by hand.
"""

from __future__ import annotations

from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.limits import MAX_SEED, between
from pretrain.runtime.wording import visible
from transfer.data.split_files import write_splits
from transfer.data.splits import read_shares


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("source", type=Path, help="folder in the VOC layout, or a json of COCO")
    p.add_argument("--shares", nargs="+", required=True, metavar="SPLIT=SHARE", help="such as trainval=0.8 test=0.2")
    p.add_argument("--seed", type=number(between(0, MAX_SEED)), default=0, help="of the drawing (%(default)s)")
    p.add_argument("--force", action="store_true", help="write over files that are there")
    args = p.parse_args(argv)
    for path, images in write_splits(args.source, read_shares(args.shares), args.seed, args.force).items():
        print(visible(f"{path}: {images} images"))
    return 0


if __name__ == "__main__":
    run(main)
