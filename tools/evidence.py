#!/usr/bin/env python
"""Runs the small twins of the papers' experiments one after the other, and writes which of the findings show.

    python tools/evidence.py --jobs 2                                   # the demo and configs/experiments/small_*.yaml
    python tools/evidence.py configs/experiments/small_ablations.yaml   # that one
    python tools/evidence.py --page-only                                # the page, from what is on disk

Finished stages are skipped, interrupted ones continue. The page is written anew whenever an experiment ends.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.readers import READERS
from pretrain.runtime.commands import REQUEUE_STATUS, Parser, run
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import setup_logging
from pretrain.runtime.shipped import config_file
from transfer.engines.select import CHOICES, select
from transfer.report import evidence
from transfer.report.report import write_report
from transfer.trials import execute
from transfer.trials.describe import problems
from transfer.trials.experiment import load_experiment
from transfer.trials.launcher import Launcher
from transfer.trials.plan import Plan
from transfer.trials.preflight import check

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS, TOOLS = ROOT / "configs" / "experiments", ROOT / "tools"
PAGE = ROOT / "docs" / "evidence.md" if (ROOT / "docs").is_dir() else Path("evidence.md")  # an installation has no docs


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument("experiments", nargs="*", type=config_file, metavar="YAML", help="default: demo and small_*")
    p.add_argument("--page", type=Path, default=PAGE, metavar="FILE.md", help="the page (%(default)s)")
    p.add_argument("--engine", default="auto", choices=CHOICES, help="default: Detectron2 where it imports")
    p.add_argument("--jobs", type=int, default=0, metavar="N", help="trials side by side; default: as GPUs allow")
    p.add_argument("--jobs-per-gpu", type=int, default=1, metavar="N", help="of small networks, several share one")
    p.add_argument("--page-only", action="store_true", help="run nothing")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    setup_logging(None)
    every = [EXPERIMENTS / "demo.yaml", *sorted(EXPERIMENTS.glob("small_*.yaml"))]
    chosen, engine = [Path(name) for name in args.experiments] or every, select(args.engine)
    plans = {p.resolve(): Plan(load_experiment(p), engine, TOOLS, readers=READERS) for p in (*chosen, *every)}
    if not args.page_only:
        evidence.check_page(args.page)
        check(*(plans[path.resolve()] for path in chosen))
    failed = False
    for number, path in enumerate(() if args.page_only else chosen, 1):
        logging.info("experiment %d of %d: %s", number, len(chosen), path)
        outcomes = execute.run(plan := plans[path.resolve()], Launcher("local", args.jobs, per_gpu=args.jobs_per_gpu))
        write_report(plan)
        evidence.write(list(plans.values()), args.page)
        for line in problems(outcomes):
            print(f"error: {line}", file=sys.stderr)
        if any(outcome.state == "stopped" for outcome in outcomes):
            return REQUEUE_STATUS
        failed = failed or any(outcome.state != "done" for outcome in outcomes)
    found = evidence.write(list(plans.values()), args.page)
    if args.page_only and not found:
        raise ConfigError(f"nothing has run that states findings; '{args.page}' is left as it is")
    print(f"{sum(j.verdict == 'shows' for j in found)} of {len(found)} findings show: {args.page}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
