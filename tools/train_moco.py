#!/usr/bin/env python
"""Pre-trains with MoCo, or with a mechanism that it is compared with (MODEL.MECHANISM).

    python tools/train_moco.py --config-file configs/pretrain/moco_v2_R_50_200ep.yaml DATA.TRAIN imagenet/train
    torchrun --nproc-per-node 8 tools/train_moco.py --config-file ... --resume auto DATA.TRAIN imagenet/train

Exit status: 0 done; 2 something is wrong with the command, the config, the data or a file (one line says what); 75
(EX_TEMPFAIL) SIGTERM, SIGUSR1 or Ctrl-C came, a checkpoint was written, and --resume auto goes on, e.g.

    python tools/train_moco.py --resume auto ... || { [ $? -eq 75 ] && scontrol requeue $SLURM_JOB_ID; }

torchrun hands SIGTERM on to its processes (SIGUSR1 too with `--signals-to-handle SIGTERM,SIGUSR1`), which save and
leave together, but its own status is 1 then: a missing result.json tells a stopped run from a finished one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.config import get_cfg
from pretrain.run import main as train
from pretrain.runtime.commands import Parser, parse_with_resume, run
from pretrain.runtime.config import load
from pretrain.runtime.log import setup_logging
from pretrain.runtime.result import FILE_NAME
from pretrain.runtime.shipped import config_file


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config-file", required=True, type=config_file, metavar="FILE", help="a YAML file of configs/pretrain/"
    )
    parser.add_argument("--output-dir", metavar="DIR", help="the same as OUTPUT_DIR DIR")
    args = parse_with_resume(parser, argv, example="SOLVER.EPOCHS 100")
    if args.output_dir:
        args.opts += ["OUTPUT_DIR", args.output_dir]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    rank = int(os.environ.get("RANK", "0"))
    cfg = load(get_cfg(), args.config_file, args.opts)
    setup_logging(cfg.OUTPUT_DIR, rank)
    train(cfg, resume=args.resume)
    if rank == 0:
        print(Path(cfg.OUTPUT_DIR) / FILE_NAME)
    return 0


if __name__ == "__main__":
    run(main)
