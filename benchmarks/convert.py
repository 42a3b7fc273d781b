#!/usr/bin/env python
"""Conversion of a MoCo v2 checkpoint (queue, key encoder, optimizer state): ours against the reference's way.

    python benchmarks/convert.py                       # a generated ResNet-50 checkpoint, 370 MB
    python benchmarks/convert.py --checkpoint moco_v2_800ep.pth.tar

Each side runs alone in a fresh process, alternating; imports are not counted. The reference's way is written anew here
from its description: load everything into memory, keep what begins with `module.encoder_q.`, rename by replacing
parts of names, pickle numpy arrays. "Ours" is the same work: reading (safely), recognising, renaming, writing. "Ours,
checked" adds what the reference does not do: checksums of the bytes, shapes and coverage, waiting until the file is on
the disk (fsync). "Ours, proven" is all that the command does: also the values, the features, the reading back, and
the source's SHA-256. Seconds are the median over `--repeats`, memory is the peak of the resident set above what it was
after the imports. Last come the two commands as a user waits for them, interpreter and imports included, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from show import spread


def generate(path: str, depth: int) -> None:
    """A checkpoint with the tensors of MoCo v2's, K=65536 for ResNet-50."""
    import torch
    from torchvision.models import resnet

    torch.manual_seed(0)
    state = {}
    for encoder in ("encoder_q", "encoder_k"):
        model = getattr(resnet, f"resnet{depth}")()
        dim = model.fc.in_features
        model.fc = torch.nn.Sequential(torch.nn.Linear(dim, dim), torch.nn.ReLU(), torch.nn.Linear(dim, 128))
        for name, value in model.state_dict().items():
            moved = "running" in name  # as after training
            state[f"module.{encoder}.{name}"] = torch.rand_like(value) + 0.1 if moved else value
    state["module.queue"] = torch.randn(128, 65536 if depth >= 50 else 4096)
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.long)
    buffers = ("running", "num_batches", "queue")
    trained = [v for k, v in state.items() if "encoder_q" in k and not any(b in k for b in buffers)]
    optimizer = {"state": {i: {"momentum_buffer": torch.randn_like(v)} for i, v in enumerate(trained)}}
    torch.save({"epoch": 200, "arch": f"resnet{depth}", "state_dict": state, "optimizer": optimizer}, path)


def reference(source: str, output: str) -> None:
    import pickle

    import torch

    out = {}
    for name, value in torch.load(source, map_location="cpu", weights_only=True)["state_dict"].items():
        prefix, _, name = name.partition("encoder_q.")
        if prefix != "module." or not name:
            continue
        name = name if "layer" in name else f"stem.{name}"
        for i in range(1, 5):
            name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        out[name] = value.numpy()
    with open(output, "wb") as f:
        pickle.dump({"model": out, "__author__": "MOCO", "matching_heuristics": True}, f)


def ours(source: str, output: str) -> None:
    from pretrain.runtime.collector import without_collection
    from transfer.convert.layouts import recognise
    from transfer.convert.read import read_file
    from transfer.convert.values import as_float32
    from transfer.convert.write import write_weights

    with without_collection():
        tensors, _ = as_float32(recognise(read_file(source), detectors=True).tensors)
        write_weights(tensors, {}, Path(output), "detectron2")


def checked(source: str, output: str) -> None:
    from pretrain.runtime.collector import without_collection
    from transfer.convert.convert import metadata_of, take
    from transfer.convert.write import staged, write_weights

    with without_collection(), staged(Path(output)) as (path,):
        taken = take(source)
        write_weights(taken.tensors, metadata_of(taken, "", "detectron2"), path, "detectron2")


def proven(source: str, output: str) -> None:
    from transfer.convert.convert import convert

    convert(source, output)


SIDES = {"reference": reference, "ours": ours, "ours, checked": checked, "ours, proven": proven}


def measure(side: str, source: str, output: str) -> None:
    """In a fresh process: prints {"seconds", "cpu", "megabytes"} of one conversion."""
    if side == "reference":
        import torch  # noqa: F401
    else:
        import transfer.convert.convert  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    SIDES[side](source, output)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "cpu": cpu, "megabytes": (peak - before) / 1024}))


def process(side: str, source: str, output: str) -> float:
    """Wall seconds of a whole command, from its start to its end: the reference's script, or ours with the proof."""
    script = Path(__file__).resolve().parents[1] / "tools" / "convert-pretrain-to-detectron2.py"
    words = [str(script), source, output] if side == "ours, proven" else [__file__, "--side", side, source, output]
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - start


def child(side: str, source: str, output: str, depth: int) -> str:
    """Runs one side in a fresh process and returns the last line that it prints."""
    command = [sys.executable, __file__, "--depth", str(depth), "--side", side, source, output]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return (text.splitlines() or [""])[-1]


def remove(output: str) -> None:
    """Everyone writes a new file, and nobody waits for what another left unwritten."""
    for file in (output, output + ".json"):
        Path(file).unlink(missing_ok=True)
    os.sync()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", help="a MoCo v1 or v2 checkpoint; default: a generated one")
    p.add_argument("--depth", type=int, default=50, help="of the generated one")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.side:
        side, source, output = args.side
        generate(output, args.depth) if side == "generate" else measure(side, source, output)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = args.checkpoint or str(Path(folder) / "moco.pth.tar")
        if not args.checkpoint:
            child("generate", "-", source, args.depth)  # in its own process: children inherit a parent's peak
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        whole: dict[str, list[float]] = {"reference": [], "ours, proven": []}
        for _ in range(args.repeats):
            for side, done in runs.items():
                output = str(Path(folder) / f"{side}.pkl")
                done.append(json.loads(child(side, source, output, args.depth)))
                remove(output)
            for side, seconds in whole.items():
                output = str(Path(folder) / "whole.pkl")
                seconds.append(process(side, source, output))
                remove(output)
        print(f"{os.path.getsize(source) / 1e6:.0f} MB checkpoint, median of {args.repeats}")
        medians = {s: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for s, rs in runs.items()}
        for side, row in medians.items():
            print(f"{side:<13} {row['seconds']:7.3f} s, {row['cpu']:7.3f} s of processor, +{row['megabytes']:6.0f} MB")
        for side in ("ours", "ours, checked", "ours, proven"):
            time_, cpu, memory = (f"{medians[side][k] / medians['reference'][k]:.2f}" for k in medians[side])
            print(f"{side}: {time_} of the reference's time, {cpu} of its processor time, {memory} of its memory")
        for side, seconds in whole.items():
            ratios = [s / r for s, r in zip(seconds, whole["reference"], strict=True)]
            print(f"whole process, {side:<13} {spread(seconds, 2)} s, {spread(ratios, 2)} of the reference's")


if __name__ == "__main__":
    main()
