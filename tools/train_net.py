#!/usr/bin/env python
"""Fine-tunes or evaluates a detector: tools/train_net.py --config-file configs/transfer/voc/... [KEY VALUE ...]"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from pretrain.runtime import dist
from pretrain.runtime.commands import Parser, parse_with_resume, run
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from transfer.config.load import load_config
from transfer.config.scale import scaled_options
from transfer.engines import machines, results
from transfer.engines.select import CHOICES, select


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument(
        "--config-file", required=True, type=config_file, metavar="FILE", help="a YAML of configs/transfer/, or yours"
    )
    p.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    machines.add_arguments(p)
    p.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST")
    p.add_argument("--auto-scale", type=int, metavar="BATCH", help="train with so many images per batch: rate and "
                   "schedule follow the authors' rule")  # fmt: skip
    return parse_with_resume(p, argv, yes="must", example="MODEL.WEIGHTS r50.pkl SEED 1")


def one(args: argparse.Namespace) -> int:
    """The run, as one of its processes."""
    setup_logging(None, machines.rank_to_be())
    engine = select(args.engine)
    opts, notes = scaled_options(args.config_file, args.opts, engine.defaults(), args.auto_scale)
    cfg = load_config(args.config_file, opts, engine.defaults())
    machines.join(cfg.MODEL.DEVICE)
    if args.eval_only:
        result = engine.evaluate(cfg, num_gpus=args.num_gpus)
    else:
        engine.train(cfg, resume=args.resume, num_gpus=args.num_gpus)
        result = results.add_notes(cfg.OUTPUT_DIR, notes)
    if dist.is_main():
        for name, value in result.metrics.items():
            print(f"{name:<24}{value:8.3f}")
        print(f"{os.path.join(cfg.OUTPUT_DIR, 'result.json')}  ({result.engine}, {result.seconds:.0f} s)")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return machines.start(one, parse(argv))


if __name__ == "__main__":
    run(main)
