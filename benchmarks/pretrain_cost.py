#!/usr/bin/env python
"""MoCo v2's Table 3, measured here: memory and time of each mechanism's step, beside the published ones.

    torchrun --nproc-per-node 8 benchmarks/pretrain_cost.py --mechanisms moco end_to_end simclr --iterations 100
    python benchmarks/pretrain_cost.py                                       # one GPU at the papers' share of the batch
    python benchmarks/pretrain_cost.py --arch resnet18 --size 32 --iterations 2      # any machine, to try it

The step is that of tools/train_moco.py, with the mechanism's own recipe: views as bytes, normalised on the device, both
encoders, loss, gradients exchanged between processes, optimizer, queue. Batches are ready, so loading is not in it.
Memory is the GPU's largest of any process after five steps, when cuDNN has chosen its algorithms: allocated by tensors,
and reserved by torch in all. Hours are those of 200 epochs of ImageNet-1M, if batches are never waited for. The row of
4,096 images end to end is extrapolated in a straight line from the share measured and half of it, and says so. What is
published stands beside the papers' network and share only.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from show import machine
from torch.amp import GradScaler

from pretrain.build import build_model, build_optimizer, data_parallel, mechanism, memory_format, place
from pretrain.config import get_cfg
from pretrain.data.augment import TwoCrops, normalise
from pretrain.loop import train_step
from pretrain.runtime import dist
from pretrain.runtime.config import merge_file, merge_opts
from pretrain.session import session

RECIPES = {
    "moco": "moco_v2_R_50_200ep.yaml",
    "end_to_end": "end_to_end_v2_R_50_200ep.yaml",
    "memory_bank": "memory_bank_R_50_200ep.yaml",
    "simclr": "simclr_R_50_200ep_b256.yaml",
    "supervised": "supervised_R_50_100ep.yaml",
}
PUBLISHED = {"moco": "5.0 GB, 53 h", "end_to_end": "7.4 GB, 65 h"}  # MoCo v2, Table 3: 256 images on 8 V100 16G
IMAGENET, EPOCHS, CLASSES, LARGE = 1_281_167, 200, 1000, 4096
FOLDER = Path(__file__).resolve().parents[1] / "configs" / "pretrain"


@dataclass(frozen=True)
class Cost:
    """Of one mechanism: gigabytes (10^9 bytes; 0 on a CPU) in the process that needs most, and seconds per step."""

    allocated: float
    reserved: float
    seconds: float


def measure(name: str, share: int, args: argparse.Namespace, device: torch.device) -> Cost:
    """Trains `args.iterations` steps of `share` images in each process."""
    cfg = get_cfg()
    merge_file(cfg, FOLDER / RECIPES[name])
    opts = ["MODEL.ARCH", args.arch, "SOLVER.AMP", args.amp, "SOLVER.BATCH_SIZE", str(share * dist.world_size())]
    merge_opts(cfg, [*opts, "SPEED.CHANNELS_LAST", str(args.channels_last)])
    if dist.world_size() == 1:  # what several processes do between each other, one leaves out
        merge_opts(cfg, ["MODEL.SYNC_BN", "False"])
    model = data_parallel(place(build_model(cfg, IMAGENET, CLASSES), cfg, device).train(), device)
    optimizer, score = build_optimizer(cfg, model), mechanism(cfg).score(cfg)
    scaler = GradScaler(device.type, enabled=args.amp == "fp16")
    views = torch.randint(256, (2, share, 3, args.size, args.size), dtype=torch.uint8).to(device)
    if mechanism(cfg).views is TwoCrops:
        key = normalise(views[1], device, memory_format(cfg))
    else:  # an image's number, or its label
        key = torch.arange(share, device=device)

    def step() -> None:
        train_step(model, optimizer, normalise(views[0], device, memory_format(cfg)), key, score=score, scaler=scaler)

    for _ in range(min(5, args.iterations)):
        step()
    settle(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(args.iterations):
        step()
    settle(device)
    seconds = (time.perf_counter() - start) / args.iterations
    memory = (0.0, 0.0)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9
    found = dist.gather_objects((*memory, seconds))
    return Cost(*(max(values) for values in zip(*found, strict=True)))


def settle(device: torch.device) -> None:
    """Waits for what was asked for, and gives back what nobody holds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    dist.barrier()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mechanisms", nargs="+", choices=RECIPES, default=["moco", "end_to_end", "simclr"])
    p.add_argument("--iterations", type=int, default=100)
    p.add_argument("--share", type=int, default=32, help="images per process; the papers' 256 on 8 GPUs are 32")
    p.add_argument("--arch", default="resnet50")
    p.add_argument("--size", type=int, default=224, help="pixels")
    p.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    p.add_argument("--channels-last", action="store_true")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = p.parse_args()
    with session(args.device) as device:
        world = dist.world_size()
        theirs = (args.arch, args.size, args.share) == ("resnet50", 224, 32)
        lines = [f"{'':28} {'allocated':>10} {'reserved':>10} {'s/iteration':>12} {'200 epochs':>11}   published"]
        for name in args.mechanisms:
            cost = measure(name, args.share, args, device)
            steps = IMAGENET // (args.share * world) * EPOCHS
            lines.append(
                row(f"{name}, {world} x {args.share}", cost, steps, PUBLISHED.get(name, "-") if theirs else "-")
            )
            if name == "end_to_end" and device.type == "cuda" and args.share > 1:
                half, share = measure(name, args.share // 2, args, device), LARGE // world
                slope = (share - args.share) / (args.share - args.share // 2)
                pairs = ((cost.allocated, half.allocated), (cost.reserved, half.reserved), (cost.seconds, half.seconds))
                large = Cost(*(a + (a - b) * slope for a, b in pairs))
                name = f"{name}, {world} x {share}, extrapolated"
                lines.append(
                    row(name, large, IMAGENET // LARGE * EPOCHS, "93 GB, not trained" if theirs and world == 8 else "-")
                )
        if dist.is_main():
            where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU (no memory counted)"
            print(f"{where}; {machine('torch')}; {args.arch}, {args.size} pixels, arithmetic {args.amp}")
            print("\n".join(lines))


def row(name: str, cost: Cost, steps: int, published: str) -> str:
    memory = [f"{x:.2f} GB" if x else "-" for x in (cost.allocated, cost.reserved)]
    hours = cost.seconds * steps / 3600
    return f"{name:28} {memory[0]:>10} {memory[1]:>10} {cost.seconds:12.4f} {hours:9.1f} h   {published}"


if __name__ == "__main__":
    main()
