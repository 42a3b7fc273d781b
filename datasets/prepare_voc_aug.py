#!/usr/bin/env python
"""Makes index maps of VOC 2012 and SBD, and the list train_aug of 10,582 images, for semantic segmentation.

    python datasets/prepare_voc_aug.py --sbd benchmark_RELEASE --root datasets

ROOT/VOC2012 comes from datasets/prepare_voc.py; SBD's archive benchmark.tgz unpacks to benchmark_RELEASE. Writes
ROOT/VOC2012/SegmentationClassAug/*.png and ImageSets/Segmentation/train_aug.txt. If it was stopped, call it again.
"""

from __future__ import annotations

import os
from pathlib import Path

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.log import setup_logging
from transfer.data import catalog
from transfer.data.index_maps import prepare_voc_aug


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    default = os.environ.get(catalog.ROOT_VARIABLE, "datasets")
    p.add_argument("--sbd", type=Path, required=True, help="folder with SBD's dataset/{cls,train.txt,val.txt}")
    p.add_argument("--root", type=Path, default=Path(default), help="folder with VOC2012 (%(default)s)")
    args = p.parse_args(argv)
    setup_logging(None)
    train, val = prepare_voc_aug(args.root / "VOC2012", args.sbd)
    print(f"voc_2012_sem_seg_train_aug: {train} images, voc_2012_sem_seg_val: {val} images")
    return 0


if __name__ == "__main__":
    run(main)
