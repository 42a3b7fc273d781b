#!/usr/bin/env python
"""Draws the generated set ("shapes and textures"), iconic images and scenes, into a folder of your choice.

python datasets/prepare_generated.py --root datasets/generated
python datasets/prepare_generated.py --root /tmp/small --iconic-train 800 --scenes-trainval 100 --seed 1
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.log import setup_logging
from transfer.data.drawing import PALETTES
from transfer.data.generated import Parameters, write

NUMBERS = {
    "seed": "of all that is drawn",
    "iconic_train": "images of one object each, to pre-train on and for kNN",
    "iconic_val": "such images whose classes kNN predicts",
    "scenes_trainval": "images of several objects with boxes and masks, to fine-tune on",
    "scenes_test": "such images to test on",
    "quality": "of the JPEG files, 1 to 100",
}
SIZES = {"iconic_size": "pixels of an image of one object", "scene_size": "pixels of a scene, on average"}


def parser() -> argparse.ArgumentParser:
    default = Parameters()
    p = Parser(description=__doc__)
    p.add_argument("--root", type=Path, default=Path("datasets/generated"), help="folder to make (%(default)s)")
    for name, what in NUMBERS.items():
        words = {"default": getattr(default, name), "metavar": "N", "help": f"{what} (%(default)s)"}
        p.add_argument(f"--{name.replace('_', '-')}", type=int, **words)
    for name, what in SIZES.items():
        words = {"default": getattr(default, name), "metavar": ("WIDTH", "HEIGHT"), "help": f"{what} (%(default)s)"}
        p.add_argument(f"--{name.replace('_', '-')}", type=int, nargs=2, **words)
    p.add_argument("--palette", choices=PALETTES, default=default.palette, help="colours of objects (%(default)s)")
    p.add_argument("--force", action="store_true", help="replace a generated set with other parameters")
    return p


def main(argv: list[str] | None = None) -> int:
    args = vars(parser().parse_args(argv))
    setup_logging(None)
    args["iconic_size"], args["scene_size"] = tuple(args["iconic_size"]), tuple(args["scene_size"])
    root = args.pop("root")
    manifest = write(root, **args)
    logging.getLogger(__name__).info(
        "'%s' is complete: %d files, %s objects, digest %s",
        root,
        manifest.files,
        sum(manifest.objects.values()),
        manifest.digest,
    )
    return 0


if __name__ == "__main__":
    run(main)
