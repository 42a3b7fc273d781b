#!/usr/bin/env python
"""Draws two schedules side by side: tools/compare_schedules.py configs/experiments/table5a.yaml .../table5b.yaml"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from pretrain.runtime.wording import visible
from transfer.engines.select import CHOICES, select
from transfer.report.schedules import write_comparison
from transfer.trials.experiment import load_experiment
from transfer.trials.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument(
        "shorter", type=config_file, metavar="SHORTER.yaml", help="an experiment file, e.g. of the 1x schedule"
    )
    p.add_argument("longer", type=config_file, metavar="LONGER.yaml", help="the same rows with another schedule")
    p.add_argument("--output-dirs", nargs=2, metavar="DIR", help="of the two; default: what the files say")
    p.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    p.add_argument("--output", metavar="FILE.html", help="default: schedules.html in the longer one's folder")
    args = p.parse_args(argv)
    setup_logging(None)
    engine, folders = select(args.engine), args.output_dirs or (None, None)
    plans = [
        Plan(load_experiment(file, folder), engine, Path(__file__).parent)
        for file, folder in zip((args.shorter, args.longer), folders, strict=True)
    ]
    path = Path(args.output) if args.output else plans[1].experiment.output / "schedules.html"
    print(visible(write_comparison(*plans, path)))
    print(f"\npage: {path}")
    return 0


if __name__ == "__main__":
    run(main)
