#!/usr/bin/env python
"""From an experiment file to its table and report: tools/reproduce.py configs/experiments/demo.yaml [--dry-run]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import setup_logging
from transfer.data.catalog import DatasetError
from transfer.engines.base import EngineError
from transfer.engines.select import CHOICES, select
from transfer.report.report import write_report
from transfer.report.tables import text_table
from transfer.trials.aggregate import AggregateError
from transfer.trials.experiment import load_experiment
from transfer.trials.reproduce import Plan, describe, run
from transfer.trials.stages import StageError


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("experiment", metavar="EXPERIMENT.yaml", help="a file of configs/experiments/, or yours")
    p.add_argument("--output-dir", metavar="DIR", help="default: what the file says")
    p.add_argument("--engine", default="auto", choices=CHOICES)
    p.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes per trial")
    p.add_argument("--auto-scale", type=int, metavar="BATCH", help="images per batch of the fine-tunings")
    p.add_argument("--dry-run", action="store_true", help="print the plan, and what is missing; run nothing")
    args = p.parse_args(argv)
    setup_logging(None)
    try:
        experiment, engine = load_experiment(args.experiment, args.output_dir), select(args.engine)
        plan = Plan(experiment, engine, Path(__file__).parent, args.num_gpus, args.auto_scale)
        if args.dry_run:
            print(describe(plan))
            return 0
        run(plan)
        print(text_table(plan))
        print(f"\nreport: {write_report(plan)}")
    except (
        AggregateError, CheckpointError, ConfigError, DatasetError, EngineError, StageError,
    ) as error:  # fmt: skip
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
