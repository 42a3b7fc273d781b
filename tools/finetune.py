#!/usr/bin/env python
"""Fine-tunes a classifier with its whole trunk, from a checkpoint or (without MODEL.WEIGHTS) from scratch.

    python tools/finetune.py --config-file configs/pretrain/finetune_R_50_imagenet.yaml \\
        MODEL.WEIGHTS checkpoint_last.pth.tar DATA.TRAIN imagenet/train DATA.VAL imagenet/val OUTPUT_DIR output/tuned
    torchrun --nproc-per-node 8 tools/finetune.py --config-file ... --resume auto ...

Labels are class folders, a .txt list of `path label`, or a .json as iNaturalist's. Exit status: 0 done; 2 something is
wrong with the command, the config, the data or a file (one line says what); 75 (EX_TEMPFAIL) SIGTERM, SIGUSR1 or Ctrl-C
came, a checkpoint was written, and --resume auto goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.probes import classify
from pretrain.runtime.commands import run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return classify.parse(argv, __doc__, "configs/pretrain/finetune_*.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    for line in classify.run(parse(argv), "free"):
        print(line)
    return 0


if __name__ == "__main__":
    run(main)
