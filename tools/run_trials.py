#!/usr/bin/env python
"""Runs N trials of one config, and gives mean and std: tools/run_trials.py --config-file F --output-dir D ..."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.runtime import dist
from pretrain.runtime.commands import Parser, run
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from transfer.config.load import load_config
from transfer.config.scale import scaled_options
from transfer.engines import machines
from transfer.engines.select import CHOICES, select
from transfer.trials.run import AGGREGATE_FILE, run_trial, run_trials


def one(args: argparse.Namespace) -> int:
    """The trials, as one of their processes."""
    setup_logging(None, machines.rank_to_be())
    seeds = range(args.first_seed, args.first_seed + args.trials)
    engine = select(args.engine)
    opts, notes = scaled_options(args.config_file, args.opts, engine.defaults(), args.auto_scale)
    machines.join(load_config(args.config_file, opts, engine.defaults()).MODEL.DEVICE)
    if args.only_seed is not None:
        trial = run_trial(engine, args.config_file, opts, args.output_dir, args.only_seed, args.num_gpus, notes)
        if dist.is_main():
            print("  ".join(f"{name} {value:.2f}" for name, value in trial.metrics.items()))
        return 0
    row = run_trials(engine, args.config_file, opts, args.output_dir, seeds, args.num_gpus, notes)
    if dist.is_main():
        print(f"{'metric':<24}{'mean':>8}{'std':>8}   each of {len(row.seeds)} trials ({row.engine})")
        for name, s in row.metrics.items():
            std = "-" if s.std is None else f"{s.std:.2f}"
            print(f"{name:<24}{s.mean:>8.2f}{std:>8}   {'  '.join(f'{v:.2f}' for v in s.values)}")
        print(f"{args.output_dir}/{AGGREGATE_FILE}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("--config-file", required=True, type=config_file, metavar="FILE", help="a YAML of configs/transfer/")
    p.add_argument("--output-dir", required=True, metavar="DIR", help="one sub-folder per trial, and trials.json")
    p.add_argument("--trials", type=int, default=5, metavar="N", help="default: 5, as in the papers")
    p.add_argument("--first-seed", type=int, default=1, metavar="S", help="trials have seeds S, S+1, ... (default: 1)")
    p.add_argument("--only-seed", type=int, metavar="S", help="one trial, without the row: to run trials side by side")
    p.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    machines.add_arguments(p)
    p.add_argument("--auto-scale", type=int, metavar="BATCH", help="images per batch; see tools/train_net.py")
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    return machines.start(one, p.parse_intermixed_args(argv))


if __name__ == "__main__":
    run(main)
