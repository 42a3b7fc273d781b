"""Holds what tools/linear_eval.py (classifier on a frozen trunk) and tools/finetune.py (on a free one) share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, parse_with_resume
from pretrain.runtime.shipped import config_file


def parse(argv: Sequence[str] | None, description: str | None, files: str) -> argparse.Namespace:
    """Parses the words of a command.

    Args:
        argv: the words; None takes those of the command line.
        description: the description in the command's help.
        files: the config files that the help names.
    """
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument("--config-file", required=True, type=config_file, metavar="FILE", help=files)
    return parse_with_resume(parser, argv)


def run(args: argparse.Namespace, trunk: str) -> list[str]:
    """Trains as the command's words say; raises what `load_lincls` and `lincls.main` raise.

    Args:
        args: see `parse`.
        trunk: what MODEL.TRUNK must be, frozen or free.

    Returns:
        The lines for the command to print: the scores, and where the result lies. Only the first process returns any.
    """
    from pretrain.probes.config import load_lincls  # here, so that --help need not wait for torch
    from pretrain.probes.lincls import main
    from pretrain.runtime.log import setup_logging
    from pretrain.runtime.result import FILE_NAME

    rank = int(os.environ.get("RANK", "0"))
    cfg = load_lincls(args.config_file, args.opts, trunk)
    setup_logging(cfg.OUTPUT_DIR, rank)
    metrics = main(cfg, resume=args.resume).metrics
    scores = f"top-1 {metrics['acc1']:.2f}  top-5 {metrics['acc5']:.2f}"
    return [scores, str(Path(cfg.OUTPUT_DIR) / FILE_NAME)] if rank == 0 else []
