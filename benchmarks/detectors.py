#!/usr/bin/env python
"""Fine-tuning and evaluation of one detector on both engines: the same weights, the same images, in turn.

    python benchmarks/detectors.py                                          # R50-FPN and R50-C4, batch 2, 288 x 384
    python benchmarks/detectors.py --networks R50-FPN --device cuda --rois 512 --short-edge 800 --long-edge 1333

An iteration is forward, losses, backward and a step of SGD on a batch of two; evaluation is detection on one image
after the other. Loaders are not counted: both engines wait for the same pixels. Every round runs all lines one after
the other, wall seconds; shown are median [smallest-largest] over the rounds, and the ratio round by round. Needs
Detectron2. bf16 is left out where the processor only imitates it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from show import machine, spread
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the pair of equal models lives with the parity tests

from pretrain.runtime.precision import in_words
from tests.conftest import ROOT
from tests.parity.models import pair
from tests.parity.test_forward import with_instances
from transfer.data import catalog, generated
from transfer.engines.tv.mapper import TestSamples, TrainSamples

CONFIGS = ROOT / "configs" / "transfer"
NETWORKS = {
    "R50-FPN": CONFIGS / "coco" / "mask_rcnn_R_50_FPN_1x_moco.yaml",
    "R50-C4": CONFIGS / "voc" / "faster_rcnn_R_50_C4_24k_moco.yaml",
    "R18-C4": CONFIGS / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml",
    "R18-FPN": CONFIGS / "coco" / "mask_rcnn_R_18_FPN_small_moco.yaml",
}


def images(args: argparse.Namespace, cfg: Any, folder: Path) -> tuple[list[dict], list[dict]]:
    """A batch to train on and images to detect on, of the generated set, as large as asked for."""
    (spec,) = [s for s in catalog.read_spec_file(folder / "coco.yaml") if s.split == "train"]
    records = catalog.open_dataset(spec).records
    size = {"channel_order": cfg.INPUT.FORMAT, "max_size": args.long_edge}
    masks = "polygon" if cfg.MODEL.MASK_ON else None
    train = TrainSamples(
        records, short_edges=[args.short_edge], sampling="choice", flip=False, seed=0, mask_format=masks, **size
    )
    batch = [train.augmented(records[i], args.short_edge, flip=False) for i in range(2)]
    test = TestSamples(records, short_edge=args.short_edge, **size)
    return batch, [test[i] for i in range(args.images)]


def on(device: str, samples: list[dict]) -> list[dict]:
    return [{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in s.items()} for s in samples]


def stepped(model: nn.Module, batch: list, dtype: torch.dtype | None, device: str) -> Callable[[], None]:
    from detectron2.utils.events import EventStorage

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        model.train()
        torch.manual_seed(0)  # the same RoIs are sampled in every round, on both engines
        with EventStorage(), torch.autocast(device, dtype, enabled=dtype is not None):
            total = sum(model(copy.copy(batch)).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def detecting(model: nn.Module, samples: list) -> Callable[[], None]:
    def detect() -> None:
        model.eval()
        with torch.no_grad():
            for sample in samples:
                model([sample])

    return detect


def seconds(run: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, args: argparse.Namespace, folder: Path) -> None:
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", len(generated.CLASS_NAMES), "MODEL.DEVICE", args.device]
    opts += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", args.rois, "INPUT.MASK_FORMAT", "polygon"]
    opts += ["MODEL.RPN.POST_NMS_TOPK_TEST", args.proposals]
    cfg, theirs, ours = pair(NETWORKS[name], opts)
    theirs, ours = theirs.to(args.device), ours.to(args.device)
    batch, samples = images(args, cfg, folder)
    theirs_batch = with_instances(batch, "polygon" if cfg.MODEL.MASK_ON else None)
    batch, samples = on(args.device, batch), on(args.device, samples)
    runs = {
        ("training, Detectron2", 1): stepped(theirs, theirs_batch, None, args.device),
        ("training, torchvision", 1): stepped(ours, batch, None, args.device),
        ("detecting, Detectron2", len(samples)): detecting(theirs, samples),
        ("detecting, torchvision", len(samples)): detecting(ours, samples),
    }
    if in_words("bf16", args.device) == "bf16":
        runs["training, torchvision, bf16", 1] = stepped(ours, batch, torch.bfloat16, args.device)
    times: dict[str, list[float]] = {what: [] for what, _ in runs}
    for turn in range(args.rounds + 1):
        for (what, count), run in runs.items():
            took = seconds(run, args.device) / count
            times[what] += [took] if turn else []  # the first round warms up
    size = tuple(batch[0]["image"].shape[1:])
    print(f"{name}: 2 images of {size[1]} x {size[0]}, {args.rois} RoIs each; {args.proposals} proposals in detection")
    for what, values in times.items():
        base = times[f"{what.split(',')[0]}, Detectron2"]
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        unit = "s/iteration" if what.startswith("training") else "s/image"
        print(f"  {what:28s} {spread(values, 3):>24s} {unit:12s} {spread(ratios, 2)}x")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--networks", nargs="+", choices=NETWORKS, default=["R50-FPN", "R50-C4"])
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--short-edge", type=int, default=288, help="pixels")
    p.add_argument("--long-edge", type=int, default=384, help="pixels, at most")
    p.add_argument("--rois", type=int, default=64, help="sampled per image in training; the papers: 512")
    p.add_argument("--proposals", type=int, default=100, help="per image in detection; the papers: 1000")
    p.add_argument("--images", type=int, default=2, help="in a round of detection")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    if importlib.util.find_spec("detectron2") is None:
        raise SystemExit("benchmarks/detectors.py compares with Detectron2, which is not installed: `make detectron2`")
    print(machine("torch", "torchvision", "detectron2"), f"- {torch.get_num_threads()} threads, {args.device}")
    with tempfile.TemporaryDirectory() as folder:
        generated.write(Path(folder), seed=0, iconic_train=0, iconic_val=0, scenes_trainval=8, scenes_test=1)
        for name in args.networks:
            measure(name, args, Path(folder))


if __name__ == "__main__":
    main()
