#!/usr/bin/env python
"""Trains a linear classifier on a checkpoint's frozen features: the papers' linear classification protocol.

    python tools/linear_eval.py --config-file configs/pretrain/lincls_R_50.yaml \\
        MODEL.WEIGHTS checkpoint_last.pth.tar DATA.TRAIN imagenet/train DATA.VAL imagenet/val OUTPUT_DIR output/lincls
    torchrun --nproc-per-node 8 tools/linear_eval.py --config-file ... --resume auto ...

Exit status: 0 done; 2 something is wrong with the command, the config, the data or a file (one line says what); 75
(EX_TEMPFAIL) SIGTERM, SIGUSR1 or Ctrl-C came, a checkpoint was written, and --resume auto goes on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.lincls import main as train
from pretrain.lincls_config import load_lincls
from pretrain.runtime.commands import parse_with_resume, run
from pretrain.runtime.log import setup_logging
from pretrain.runtime.result import FILE_NAME


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="configs/pretrain/lincls_*.yaml")
    return parse_with_resume(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    rank = int(os.environ.get("RANK", "0"))
    cfg = load_lincls(args.config_file, args.opts, "frozen")
    setup_logging(cfg.OUTPUT_DIR, rank)
    result = train(cfg, resume=args.resume)
    if rank == 0:
        print(f"top-1 {result.metrics['acc1']:.2f}  top-5 {result.metrics['acc5']:.2f}")
        print(Path(cfg.OUTPUT_DIR) / FILE_NAME)
    return 0


if __name__ == "__main__":
    run(main)
