#!/usr/bin/env python
"""Exports a trained network as one file for serving (ONNX or torch.export), and checks it against the network.

    python tools/export.py --weights output/model_final.pth --image photo.jpg

The config and the class names come from the weights' folder. docs/serving.md describes the inputs and outputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from transfer.engines.images import read_image
from transfer.engines.select import select
from transfer.report import predict

OUTPUTS = {"onnx": "model.onnx", "torch": "model.pt2"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument("--weights", type=Path, required=True, metavar="FILE", help="model_final.pth of a run")
    p.add_argument("--config-file", type=config_file, metavar="FILE", help="default: that of the weights' folder")
    p.add_argument("--format", choices=OUTPUTS, default="onnx", help="%(default)s; torch: an archive of torch.export")
    p.add_argument("--output", type=Path, metavar="FILE", help="model.onnx or model.pt2")
    p.add_argument("--image", nargs="+", default=[], metavar="FILE", help="what to compare on; default: made-up ones")
    p.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options, e.g. INPUT.MIN_SIZE_TEST 0"
    )
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    setup_logging(None)
    engine = select("torchvision")
    cfg, names = predict.trained(args.weights, args.config_file, args.opts, engine.defaults(), "an export")
    good, bad = predict.records(predict.image_files(args.image), cfg)
    for path, why in bad.items():
        raise ConfigError(f"--image '{path}': {why}")
    output = args.output or Path(OUTPUTS[args.format])
    images = [read_image(record["file_name"], cfg.INPUT.FORMAT) for record in good]
    for line in engine.export(cfg, output, args.format, names, images):
        print(f"file and network differ on {line}")
    print(output)
    return 0


if __name__ == "__main__":
    run(main)
