#!/usr/bin/env python
"""Draws data and detections, as PNGs.

python tools/visualize.py data --config-file configs/transfer/... [--engine E] [KEY VALUE ...]   what training sees
python tools/visualize.py truth --config-file configs/transfer/... [KEY VALUE ...]               the annotations
python tools/visualize.py run RUN_FOLDER [--threshold 0.5]    detections and PR curves, or maps, of either engine's run
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.limits import SHARE, between
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from pretrain.runtime.slug import part
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.select import CHOICES, select
from transfer.report import visualize


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output-dir", metavar="DIR", help="default: pictures/, or the run's folder")
    common.add_argument("--count", type=number(between(1, 1000)), default=8, metavar="N", help="images")
    commands = p.add_subparsers(dest="command", required=True, help="what is drawn")
    for name, words in (("data", "training images as the network sees them"), ("truth", "annotated images")):
        c = commands.add_parser(name, parents=[common], help=words)
        c.add_argument("--config-file", required=True, type=config_file, metavar="FILE", help="a YAML, as in training")
        c.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config options")
        if name == "data":
            c.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    c = commands.add_parser("run", parents=[common], help="detections and precision-recall curves of a run")
    c.add_argument("run", type=Path, metavar="RUN_FOLDER", help="with config.yaml and predictions_*.json")
    c.add_argument(
        "--threshold", type=number(SHARE, float), default=0.5, metavar="SCORE", help="detections below are not drawn"
    )
    return p.parse_args(argv)


def write(args: argparse.Namespace) -> list[Path]:
    folder = Path(args.output_dir or (args.run if args.command == "run" else "pictures"))
    if args.command == "data":
        engine = select(args.engine)
        cfg = load_config(args.config_file, args.opts, engine.defaults())
        if not cfg.DATASETS.TRAIN:
            raise ConfigError("DATASETS.TRAIN is empty; name a data set to show")
        spec = catalog.resolve(cfg.DATASETS.TRAIN, cfg.DATASETS.SPECS)[0]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "training_inputs.png"
        visualize.training_inputs(engine.training_inputs(cfg, args.count), spec, path)
        return [path]
    cfg = load_config(args.config_file, args.opts) if args.command == "truth" else load_config(args.run / "config.yaml")
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty; name a data set to show")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for spec in visualize.evaluated_sets(cfg):
        if args.command == "truth":
            paths.append(folder / f"truth_{part(spec.name)}.png")
            visualize.ground_truth(spec, args.count, paths[-1])
        else:
            paths += visualize.of_run(spec, args.run, args.count, args.threshold, folder)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    setup_logging(None)
    print(*write(parse(argv)), sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
