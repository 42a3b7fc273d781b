#!/usr/bin/env python
"""Runs a trained network on images and writes pictures, a COCO json and a CSV; maps for semantic segmentation.

    python tools/predict.py --weights output/model_final.pth IMAGES...    # files, folders, or "patterns/**/*.jpg"

The config and the class names come from the weights' folder. Images that cannot be read are skipped and listed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.limits import SHARE
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from pretrain.runtime.wording import visible
from transfer.engines.select import CHOICES, select
from transfer.report import predict


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument("--weights", type=Path, required=True, metavar="FILE", help="model_final.pth of a run")
    p.add_argument("images", nargs="*", metavar="IMAGES", help="image files, folders of them, patterns in quotes")
    p.add_argument("--config-file", type=config_file, metavar="FILE", help="default: that of the weights' folder")
    p.add_argument(
        "--output-dir",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="for all that is written (%(default)s)",
    )
    p.add_argument(
        "--threshold", type=number(SHARE, float), default=0.5, metavar="SCORE", help="less is left out; %(default)s"
    )
    p.add_argument("--no-pictures", action="store_true", help="json and CSV alone")
    p.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    p.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options, last: MODEL.DEVICE cpu")
    args = p.parse_args(argv)
    if not args.images:
        p.error("give IMAGES" + ", before --opts: it takes all words that follow it" * bool(args.opts))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    setup_logging(None)
    engine = select(args.engine)
    cfg, names = predict.trained(args.weights, args.config_file, args.opts, engine.defaults(), "a prediction")
    files = predict.image_files(args.images)
    predict.check_apart(files, args.output_dir)
    good, bad = predict.records(files, cfg)
    for path, why in bad.items():
        print(visible(f"skipped '{path}': {why}"))
    if not good:
        raise ConfigError(f"none of the {len(bad)} files is an image that can be read")
    output = predict.Output(args.output_dir, names, args.threshold, not args.no_pictures)
    try:
        for record, found in zip(good, engine.predict(cfg, good), strict=True):
            output.add(record, found)
    finally:  # also of what was found until somebody stopped it
        written = output.finish(bad)
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
