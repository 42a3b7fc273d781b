#!/usr/bin/env python
"""Makes Cityscapes' maps of the 19 train ids, for semantic segmentation.

    python datasets/prepare_cityscapes.py --root datasets

Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in ROOT/cityscapes first. Writes
*_gtFine_labelTrainIds.png beside *_gtFine_labelIds.png. If it was stopped, call it again.
"""

from __future__ import annotations

import os
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.log import setup_logging
from transfer.data import catalog
from transfer.data.index_maps import prepare_cityscapes


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    default = os.environ.get(catalog.ROOT_VARIABLE, "datasets")
    p.add_argument("--root", type=Path, default=Path(default), help="folder with cityscapes (%(default)s)")
    args = p.parse_args(argv)
    setup_logging(None)
    train, val = prepare_cityscapes(args.root / "cityscapes")
    print(f"cityscapes_fine_sem_seg_train: {train} images, cityscapes_fine_sem_seg_val: {val} images")
    return 0


if __name__ == "__main__":
    run(main)
