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
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.decode import BadImageError
from pretrain.lincls import main
from pretrain.lincls_config import get_lincls_cfg
from pretrain.loop import DivergedError
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.commands import leave, parse_with_resume
from pretrain.runtime.config import ConfigError, merge_file, merge_opts
from pretrain.runtime.log import setup_logging
from pretrain.runtime.preempt import REQUEUE_STATUS, Preempted
from pretrain.runtime.result import FILE_NAME
from pretrain.trunk import TrunkChangedError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="configs/pretrain/lincls_*.yaml")
    return parse_with_resume(parser, argv)


def run(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    rank = int(os.environ.get("RANK", "0"))
    try:
        cfg = get_lincls_cfg()
        merge_file(cfg, args.config_file)
        merge_opts(cfg, args.opts)
        cfg.freeze()
        setup_logging(cfg.OUTPUT_DIR, rank)
        result = main(cfg, resume=args.resume)
    except Preempted as stop:
        print(f"{stop}; go on with --resume auto", file=sys.stderr)
        return REQUEUE_STATUS
    except (ConfigError, CheckpointError, BadImageError, DivergedError, TrunkChangedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rank == 0:
        print(f"top-1 {result.metrics['acc1']:.2f}  top-5 {result.metrics['acc5']:.2f}")
        print(Path(cfg.OUTPUT_DIR) / FILE_NAME)
    return 0


if __name__ == "__main__":
    leave(run)
