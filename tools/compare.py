#!/usr/bin/env python
"""Compares two experiments row by row: tools/compare.py A.yaml B.yaml; or two engines' trials of one experiment:
tools/compare.py A.yaml --engines torchvision detectron2"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from pretrain.runtime.wording import short, visible
from transfer.engines.select import CHOICES, select
from transfer.report.compare import write_comparison
from transfer.trials.experiment import load_experiment
from transfer.trials.plan import Plan


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("first", type=config_file, metavar="A.yaml", help="an experiment file")
    p.add_argument("second", type=config_file, metavar="B.yaml", nargs="?", help="another; default: the same one")
    p.add_argument("--output-dirs", nargs=2, metavar="DIR", help="of the two; default: what the files say")
    p.add_argument("--engines", nargs=2, choices=CHOICES, default=("auto", "auto"), help="of the two; default: auto")
    p.add_argument("--trials", type=int, metavar="N", help="per row, as reproduce.py ran both; default: of the files")
    p.add_argument("--output", metavar="FILE.html", help="default: compare-B.html in A's folder; B.md lies beside it")
    args = p.parse_args(argv)
    setup_logging(None)
    files = args.first, args.second or args.first
    if args.output and Path(args.output).suffix != ".html":
        raise ConfigError(
            f"--output is {short(args.output)}; give a name that ends in .html (.md is written beside it)"
        )
    experiments = [
        load_experiment(file, folder, args.trials)
        for file, folder in zip(files, args.output_dirs or (None, None), strict=True)
    ]
    for e in experiments:
        if not e.output.is_dir():
            raise ConfigError(f"'{e.output}' does not exist; run tools/reproduce.py first, or give --output-dirs")
    left, right = (
        Plan(e, select(engine), Path(__file__).parent) for e, engine in zip(experiments, args.engines, strict=True)
    )
    name = right.engine.name if args.second is None else Path(args.second).stem
    path = Path(args.output) if args.output else left.experiment.output / f"compare-{name}.html"
    print(visible(write_comparison(left, right, path)))
    print(f"\npage: {path}, table: {path.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    run(main)
