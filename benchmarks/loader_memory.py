#!/usr/bin/env python
"""Memory of a loader's worker processes: annotations packed in one block, against the list that they were read as.

    python benchmarks/loader_memory.py                    # as many images and objects as COCO's training set
    python benchmarks/loader_memory.py --images 10000

Two workers look at every record once, as an epoch does, without reading images. Printed is what the workers hold beyond
the pages that they share with the parent ("private" of /proc/PID/smaps_rollup), together, at the end.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from pretrain.runtime.collector import without_collection
from pretrain.runtime.workers import start_worker
from transfer.data.records import PackedRecords

WORKERS = 2
IMAGES, OBJECTS = 118_287, 7.27  # of COCO 2017's training set, and per image


class Counts(Dataset[int]):
    """How many objects an image has, from their polygons."""

    def __init__(self, records: Sequence[dict[str, Any]]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> int:
        return sum(np.asarray(a["segmentation"][0]).size > 0 for a in self.records[index]["annotations"])


@without_collection()
def generate(images: int) -> list[dict[str, Any]]:
    """Records of COCO's shape: seven objects each, one polygon of 26 points per object."""
    r = random.Random(0)
    return [
        {
            "file_name": f"datasets/coco/train2017/{i:012d}.jpg",
            "image_id": i,
            "height": 480,
            "width": 640,
            "annotations": [
                {
                    "bbox": [r.random() * 400 for _ in range(4)],
                    "category_id": r.randrange(80),
                    "iscrowd": 0,
                    "segmentation": [[r.random() * 400 for _ in range(52)]],
                }
                for _ in range(int(OBJECTS + r.random()))
            ],
        }
        for i in range(images)
    ]


def private(pid: int) -> float:
    """Megabytes that a process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"Private_\w+:\s+(\d+) kB", text)) / 1024


def measure(records: Sequence[dict[str, Any]], freeze: bool) -> float:
    """Private megabytes of the workers after an epoch."""
    loader = DataLoader(
        Counts(records),
        64,
        num_workers=WORKERS,
        worker_init_fn=start_worker if freeze else None,
        persistent_workers=True,
    )
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)
    return sum(private(worker.pid) for worker in batches._workers)  # type: ignore[attr-defined]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=int, default=IMAGES)
    args = p.parse_args()
    records = generate(args.images)
    listed = measure(records, freeze=False)
    packed = PackedRecords(records)
    del records
    ours = measure(packed, freeze=True)
    print(f"{args.images} images, {WORKERS} workers, private memory together after an epoch")
    print(f"list     {listed:8.0f} MB")
    print(f"packed   {ours:8.0f} MB, beside one block of {packed.nbytes / 2**20:.0f} MB that all share")
    print(f"packed over list: {ours / listed:.3f}")


if __name__ == "__main__":
    main()
