#!/usr/bin/env python
"""Computes the kNN accuracy of a checkpoint's features: the weighted vote of k=200 neighbours at temperature 0.07.

    python tools/knn_eval.py checkpoint_last.pth.tar --train imagenet/train --val imagenet/val --output-dir output/knn
    torchrun --nproc-per-node 8 tools/knn_eval.py ...

The checkpoint is one of MoCo (ours or the reference's), a linear probe, or a torchvision ResNet's state dict.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.limits import between


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("weights", help="checkpoint to evaluate")
    parser.add_argument("--train", required=True, metavar="SET", help="folder of images per class, or file of labels")
    parser.add_argument("--val", required=True, metavar="SET", help="the same, with the same classes")
    parser.add_argument("--output-dir", default="output/knn", metavar="DIR", help="for result.json and the features")
    parser.add_argument("--arch", default="", help="if the checkpoint does not say it, e.g. resnet50")
    parser.add_argument("-k", type=int, default=200, help="neighbours")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the vote")
    parser.add_argument("--crop-size", type=int, help="pixels; default: as the checkpoint was trained, else 224")
    parser.add_argument("--resize", type=int, help="short side before the central crop; default: crop size x 256 / 224")
    parser.add_argument("--batch-size", type=int, default=256, help="over all processes")
    parser.add_argument(
        "--num-workers", type=number(between(-1, 1024)), default=-1, help="loader processes; default: one per core"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    args = parser.parse_args(argv)
    from pretrain.probes.knn import main as evaluate  # here, so that --help need not wait for torch
    from pretrain.runtime.log import setup_logging
    from pretrain.runtime.result import FILE_NAME
    from pretrain.runtime.workers import loader_processes

    rank = int(os.environ.get("RANK", "0"))
    setup_logging(None, rank)
    result = evaluate(
        *(args.weights, args.train, args.val, args.output_dir),
        arch=args.arch,
        k=args.k,
        T=args.temperature,
        resize=args.resize,
        crop_size=args.crop_size,
        batch_size=args.batch_size,
        num_workers=loader_processes(args.num_workers),
        device_name=args.device,
    )
    if rank == 0:
        print(f"top-1 {result.metrics['knn/acc1']:.2f}  top-5 {result.metrics['knn/acc5']:.2f}")
        print(Path(args.output_dir) / FILE_NAME)
    return 0


if __name__ == "__main__":
    run(main)
