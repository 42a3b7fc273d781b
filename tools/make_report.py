#!/usr/bin/env python
"""Makes an experiment's table and report from what is on disk, running nothing: tools/make_report.py EXPERIMENT.yaml"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.config import ConfigError
from pretrain.runtime.limits import between
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from pretrain.runtime.wording import visible
from transfer.engines.select import CHOICES, select
from transfer.report.collect import collect
from transfer.report.report import write_report
from transfer.report.tables import text
from transfer.trials.experiment import load_experiment
from transfer.trials.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument(
        "experiment", type=config_file, metavar="EXPERIMENT.yaml", help="a file of configs/experiments/, or yours"
    )
    p.add_argument(
        "--output-dir", metavar="DIR", help="where the experiment's results are; default: what the file says"
    )
    p.add_argument("--engine", default="auto", choices=CHOICES, help="whose trials; an experiment may have both")
    p.add_argument(
        "--trials", type=int, metavar="N", help="per row, as reproduce.py ran it; default: what the file says"
    )
    p.add_argument("--num-gpus", type=number(between(1, 1024)), default=1, metavar="N", help="as reproduce.py had it")
    p.add_argument("--auto-scale", type=int, metavar="BATCH", help="as reproduce.py had it")
    args = p.parse_args(argv)
    setup_logging(None)
    experiment = load_experiment(args.experiment, args.output_dir, args.trials)
    if not experiment.output.is_dir():
        raise ConfigError(f"'{experiment.output}' does not exist; run tools/reproduce.py first, or give --output-dir")
    plan = Plan(experiment, select(args.engine), Path(__file__).parent, args.num_gpus, args.auto_scale)
    report = collect(plan)
    print(visible(text(report)))
    print(f"\nreport: {write_report(plan, report)}")
    return 0


if __name__ == "__main__":
    run(main)
