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
from collections.abc import Sequence

from pretrain.probes import classify
from pretrain.runtime.commands import run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return classify.parse(argv, __doc__, "configs/pretrain/lincls_*.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    for line in classify.run(parse(argv), "frozen"):
        print(line)
    return 0


if __name__ == "__main__":
    run(main)
