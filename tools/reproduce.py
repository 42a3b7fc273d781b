#!/usr/bin/env python
"""Runs an experiment file up to its table and report: tools/reproduce.py configs/experiments/demo.yaml [--dry-run]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.readers import READERS
from pretrain.runtime.commands import REQUEUE_STATUS, Parser, number, run
from pretrain.runtime.limits import between
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from pretrain.runtime.wording import visible
from transfer.engines.select import CHOICES, select
from transfer.report.collect import collect
from transfer.report.report import write_report
from transfer.report.tables import text
from transfer.trials import execute
from transfer.trials.describe import describe, problems
from transfer.trials.experiment import load_experiment
from transfer.trials.launcher import LAUNCHERS, Launcher, parse_options
from transfer.trials.plan import KINDS, Plan


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument(
        "experiment", type=config_file, metavar="EXPERIMENT.yaml", help="a file of configs/experiments/, or yours"
    )
    p.add_argument("--output-dir", metavar="DIR", help="default: what the file says")
    p.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    p.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="run these rows only")
    p.add_argument("--only", nargs="+", default=[], metavar="STAGE", help=f"run these only: {', '.join(KINDS)}")
    p.add_argument("--trials", type=int, metavar="N", help="per row; default: what the file says")
    p.add_argument("--num-gpus", type=number(between(1, 1024)), default=1, metavar="N", help="processes per trial")
    p.add_argument("--auto-scale", type=int, metavar="BATCH", help="images per batch of the fine-tunings")
    p.add_argument("--launcher", default="local", choices=LAUNCHERS, help="here, or as a SLURM job array")
    p.add_argument("--jobs", type=int, default=0, metavar="N", help="side by side; default: as GPUs allow")
    p.add_argument("--jobs-per-gpu", type=int, default=1, metavar="N", help="of small networks, several share one")
    p.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. partition=gpu timeout_min=1440")
    p.add_argument("--dry-run", action="store_true", help="print plan, commands, cost and what is missing; run nothing")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    setup_logging(None)
    launcher = Launcher(args.launcher, args.jobs, parse_options(args.slurm), args.jobs_per_gpu)
    experiment, engine = load_experiment(args.experiment, args.output_dir, args.trials), select(args.engine)
    rows, only = tuple(args.rows), tuple(args.only)
    plan = Plan(
        experiment, engine, Path(__file__).parent, args.num_gpus, args.auto_scale, rows, only, readers=READERS
    )  # fmt: skip
    if args.dry_run:
        print(visible(describe(plan)))
        return 0
    outcomes = execute.run(plan, launcher)
    report = collect(plan)
    print(visible(text(report)))
    print(f"\nreport: {write_report(plan, report)}")
    for line in problems(outcomes):
        print(visible(f"error: {line}"), file=sys.stderr)
    states = {outcome.state for outcome in outcomes}
    return REQUEUE_STATUS if "stopped" in states else 0 if states <= {"done"} else 2


if __name__ == "__main__":
    run(main)
