#!/usr/bin/env python
"""VOC evaluation: ours against Detectron2's evaluator, or where that is not installed against plain loops.

    python benchmarks/voc_eval.py                                   # 500 images x 100 detections x 20 classes
    python benchmarks/voc_eval.py --images 4952                     # the size of VOC 2007 test; minutes for Detectron2

Both sides get the same detections in memory and write or keep what they need themselves. Processor seconds of this
process, the median of `--repeats`; the other side runs once.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the plain loops, which live with the tests

from tests.transfer.evaluation.reference import naive_ap, run_detectron2
from transfer.evaluation.voc_ap import THRESHOLDS, ImageDetections, voc_average_precision


def problem(n_images: int, n_detections: int, n_classes: int, seed: int) -> tuple[list, list[ImageDetections]]:
    """Random ground truth of 1 to 5 objects per image, and detections scattered around it."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for i in range(n_images):
        n = int(rng.integers(1, 6))
        corner = rng.integers(0, 300, (n, 2))
        truth = np.concatenate([corner, corner + rng.integers(20, 150, (n, 2))], axis=1).astype(np.float64)
        classes = rng.integers(0, n_classes, n)
        annotations = [
            {"bbox": box, "category_id": int(c), "iscrowd": 0, "difficult": int(rng.random() < 0.15)}
            for box, c in zip(truth.tolist(), classes, strict=True)
        ]
        records.append({"image_id": f"{i:06d}", "height": 500, "width": 500, "annotations": annotations})
        near = rng.integers(0, n, n_detections)
        boxes = truth[near] + rng.normal(0, 12, (n_detections, 4))
        labels = np.where(rng.random(n_detections) < 0.5, classes[near], rng.integers(0, n_classes, n_detections))
        scores = rng.random(n_detections)
        found = (boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64))
        detections.append(ImageDetections(f"{i:06d}", *found))
    return records, detections


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=int, default=500)
    p.add_argument("--detections", type=int, default=100, help="per image")
    p.add_argument("--classes", type=int, default=20)
    p.add_argument("--year", type=int, default=2007, choices=(2007, 2012))
    p.add_argument("--repeats", type=int, default=5)
    args = p.parse_args()
    records, detections = problem(args.images, args.detections, args.classes, seed=0)
    names = [f"class{c}" for c in range(args.classes)]

    seconds = []
    for _ in range(args.repeats):
        start = time.process_time()
        ours = voc_average_precision(records, detections, names, args.year)
        seconds.append(time.process_time() - start)

    if importlib.util.find_spec("detectron2") is not None:
        other = "Detectron2's evaluator"
        with tempfile.TemporaryDirectory() as folder:
            theirs, reference = run_detectron2(Path(folder), records, detections, names, args.year)
    else:
        other = "plain loops (Detectron2 is not installed)"
        start = time.process_time()
        theirs = {
            "AP": float(
                np.mean(
                    [[naive_ap(records, detections, c, t, args.year) for t in THRESHOLDS] for c in range(len(names))]
                )
            )
        }
        reference = time.process_time() - start
    mine = statistics.median(seconds)
    print(f"{args.images} images x {args.detections} detections x {args.classes} classes, VOC {args.year}")
    print(f"AP ours {ours.AP:.6f}, {other} {theirs['AP']:.6f}, difference {abs(ours.AP - theirs['AP']):.2g}")
    print(
        f"ours {mine:.3f} s [{min(seconds):.3f}-{max(seconds):.3f}], {other} {reference:.2f} s: {reference / mine:.0f}x"
    )


if __name__ == "__main__":
    main()
