#!/usr/bin/env python
"""One training step of MoCo v2: seconds and peak memory, ours against the plain step, in fp32 and bf16.

    python benchmarks/train_step.py                                 # ResNet-50, 224 pixels, batch 32, K 65536
    python benchmarks/train_step.py --arch resnet18 --size 64 --steps 10

The reference is the plain step, written anew from its description: two encoders, momentum update parameter by
parameter, a copy of the queue, the default SGD, top-1 and top-5 fetched from the device in every step. Ours starts from
bytes and normalises them in the step. One process without shuffling BN: both compute the same thing.

Every variant has a process of its own, which steps when it is its turn: the steps are interleaved, the peaks separate.
Seconds are median [smallest-largest], the ratio step by step. The peak is that of resident memory above what the
process held before the model was built. Losses are compared with the reference's: in the first step, before weights
move, and over all steps, in which training enlarges any rounding.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from show import machine, spread
from torch import Tensor, nn
from torchvision import models

from pretrain.build import build_model, memory_format, place
from pretrain.config import get_cfg
from pretrain.data.augment import normalise
from pretrain.loop import train_step
from pretrain.runtime.config import merge_opts

CPU = torch.device("cpu")
OPTIONS = {
    "ours": [],
    "ours, channels_last": ["SPEED.CHANNELS_LAST", "True"],
    "ours, bf16 + channels_last": ["SOLVER.AMP", "bf16", "SPEED.CHANNELS_LAST", "True"],
}


class PlainMoCo(nn.Module):
    """Queries against keys and a queue, with the MLP head of v2."""

    def __init__(self, arch: str, K: int):
        super().__init__()
        self.encoder_q, self.encoder_k = (getattr(models, arch)(num_classes=128) for _ in "qk")
        for encoder in (self.encoder_q, self.encoder_k):
            width = encoder.fc.in_features
            encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(128, K), dim=0))
        self.pointer = 0

    def forward(self, im_q: Tensor, im_k: Tensor) -> Tensor:
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            for a, b in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                b.data = b.data * 0.999 + a.data * (1 - 0.999)
            k = F.normalize(self.encoder_k(im_k), dim=1)
        positive = torch.einsum("nc,nc->n", q, k).unsqueeze(1)
        negative = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        self.queue[:, self.pointer : self.pointer + len(k)] = k.T
        self.pointer = (self.pointer + len(k)) % self.queue.shape[1]
        return torch.cat([positive, negative], dim=1) / 0.2


def reference(args: argparse.Namespace) -> Callable[[Tensor, Tensor], float]:
    torch.manual_seed(0)
    model = PlainMoCo(args.arch, args.k)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)

    def step(im_q: Tensor, im_k: Tensor) -> float:
        logits = model(im_q, im_k)
        labels = torch.zeros(len(logits), dtype=torch.long)
        loss = F.cross_entropy(logits, labels)
        best = logits.topk(5, dim=1).indices == labels.unsqueeze(1)
        _ = best[:, :1].float().sum().item(), best.float().sum().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def ours(args: argparse.Namespace, options: list[str]) -> Callable[[Tensor, Tensor], float]:
    cfg = get_cfg()
    shape = ["MODEL.ARCH", args.arch, "MODEL.K", str(args.k), "MODEL.MLP", "True", "MODEL.T", "0.2"]
    merge_opts(cfg, [*shape, "MODEL.SHUFFLE_BN", "False", *options])
    model = place(build_model(cfg), cfg, CPU)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4, fused=True)

    def step(im_q: Tensor, im_k: Tensor) -> float:
        loss, _ = train_step(model, optimizer, *(normalise(x, CPU, memory_format(cfg)) for x in (im_q, im_k)))
        return loss.item()

    return step


def serve(pipe: Connection, name: str, args: argparse.Namespace) -> None:
    """In the variant's own process: a step (seconds, loss) for every message but None, then the peak in GB."""
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    before = resident()
    step = reference(args) if name == "reference" else ours(args, OPTIONS[name])
    while pipe.recv() is not None:
        views = [torch.randint(256, (args.batch, 3, args.size, args.size), generator=generator).byte() for _ in "qk"]
        if name == "reference":
            views = [normalise(x, CPU) for x in views]  # its loader did this
        start = time.perf_counter()
        loss = step(*views)
        pipe.send((time.perf_counter() - start, loss))
    pipe.send((resident() - before) / 1e9)


def resident() -> float:
    """Bytes of resident memory, at its peak so far (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--arch", default="resnet50")
    p.add_argument("--size", type=int, default=224, help="pixels")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--k", type=int, default=65536)
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process, one at a time")
    args = p.parse_args()
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers: list[Any] = []
    for name in ("reference", *OPTIONS):
        pipes[name], theirs = spawn.Pipe()
        workers.append(spawn.Process(target=serve, args=(theirs, name, args), daemon=True))
        workers[-1].start()
        theirs.close()
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    losses: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(args.steps + 1):
        for name, pipe in pipes.items():
            pipe.send("step")
            taken, loss = pipe.recv()
            seconds[name].append(taken)
            losses[name].append(loss)

    shape = (
        f"{args.arch}, {args.size} pixels, batch {args.batch}, K {args.k}, {args.threads} threads, {args.steps} steps"
    )
    print(f"{machine('torch', 'torchvision')}\n{shape}, CPU")
    peaks: dict[str, float] = {}
    for name, pipe in pipes.items():
        pipe.send(None)
        peaks[name] = pipe.recv()
        times = seconds[name][1:]  # the first step warms up
        ratios = [r / t for r, t in zip(seconds["reference"][1:], times, strict=True)]
        apart = [abs(a - b) for a, b in zip(losses["reference"], losses[name], strict=True)]
        print(
            f"{name:28s} {spread(times, 3):>22s} s  {spread(ratios, 2)}x"
            f"  peak {peaks[name]:.2f} GB ({peaks[name] / peaks['reference']:.2f}x)"
            f"  loss apart {apart[0]:.1e}, later at most {max(apart):.1e}"
        )
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
