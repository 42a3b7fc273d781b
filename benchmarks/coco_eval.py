#!/usr/bin/env python
"""COCO evaluation: ours (faster-coco-eval) against pycocotools, on the same detections, with equal numbers.

    python benchmarks/coco_eval.py                       # 500 images x 100 detections x 80 classes, boxes
    python benchmarks/coco_eval.py --images 2000

Processor seconds of this process, both sides in turn, `--repeats` times each; reading the ground truth is part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from transfer.data.dataset import open_dataset
from transfer.data.spec import DatasetSpec
from transfer.evaluation.coco_ap import BACKENDS, coco_average_precision
from transfer.evaluation.predictions import ImageDetections


def problem(n_images: int, n_detections: int, n_classes: int, seed: int) -> tuple[dict, list[ImageDetections]]:
    """An instances json with about 7 objects per image, and detections scattered around them."""
    rng = np.random.default_rng(seed)
    images, annotations, detections = [], [], []
    for i in range(n_images):
        images.append({"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640})
        n = int(rng.integers(1, 14))
        corner, extent = rng.uniform(0, 300, (n, 2)), rng.uniform(5, 180, (n, 2))
        classes = rng.integers(0, n_classes, n)
        for box, (w, h), c in zip(
            np.concatenate([corner, extent], axis=1).tolist(), extent.tolist(), classes.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": c + 1,
                    "bbox": box,
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        near = rng.integers(0, n, n_detections)
        truth = np.concatenate([corner, corner + extent], axis=1)
        boxes = (truth[near] + rng.normal(0, 8, (n_detections, 4))).astype(np.float32)
        labels = np.where(rng.random(n_detections) < 0.5, classes[near], rng.integers(0, n_classes, n_detections))
        detections.append(
            ImageDetections(i, boxes, rng.random(n_detections).astype(np.float32), labels.astype(np.int64))
        )
    categories = [{"id": c + 1, "name": f"class{c}"} for c in range(n_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=int, default=500)
    p.add_argument("--detections", type=int, default=100, help="per image")
    p.add_argument("--classes", type=int, default=80)
    p.add_argument("--repeats", type=int, default=3)
    args = p.parse_args()
    truth, detections = problem(args.images, args.detections, args.classes, seed=0)
    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        path.write_text(json.dumps(truth))
        for image in truth["images"]:
            (Path(folder) / image["file_name"]).touch()  # no evaluation opens them
        spec = DatasetSpec("b", "coco", Path(folder), "b", image_root=Path(folder), json_file=path)
        dataset = open_dataset(spec)
        for _ in range(args.repeats):
            for name in BACKENDS:
                start = time.process_time()
                results[name] = coco_average_precision(dataset, detections, "bbox", name)
                seconds[name].append(time.process_time() - start)
    (fast, slow), (ours, reference) = results.values(), seconds.values()
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    gap = max(abs(getattr(fast, key) - getattr(slow, key)) for key in keys)
    print(f"{args.images} images x {args.detections} detections x {args.classes} classes, AP {fast.AP:.3f}")
    print(f"ours (faster-coco-eval)  {statistics.median(ours):8.2f} s")
    print(f"reference (pycocotools)  {statistics.median(reference):8.2f} s")
    ratio = statistics.median(reference) / statistics.median(ours)
    print(f"ratio {ratio:.1f}x, largest difference of a statistic {gap:.1e}")


if __name__ == "__main__":
    main()
