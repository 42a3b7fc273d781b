#!/usr/bin/env python
"""A report of 25 trials whose detections are summarised as each trial ends, against one that reads them all.

    python benchmarks/report.py                          # 5 rows x 5 trials, VOC 2007 test's size: 4,952 images x 100
    python benchmarks/report.py --format coco --images 5000 --classes 80          # COCO val2017's

Trials and images are made up; annotations are files as of that data set. Wall seconds of `tools/make_report.py` as a
process of its own: with summaries, then with the summaries removed (as of trials of an earlier version, which the
first report summarises). `--repeats` in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from show import machine, spread
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests write made-up results, too

from pretrain.runtime import checkpoint
from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from tests.transfer.report.trees import curve, plan
from transfer.config.load import digest
from transfer.data import catalog
from transfer.evaluation.predictions import ImageDetections
from transfer.evaluation.protocols import PROTOCOLS
from transfer.evaluation.trial_summary import summary_file
from transfer.trials.aggregate import aggregate
from transfer.trials.plan import Plan
from transfer.trials.run import AGGREGATE_FILE, trial_folder

WIDTH, HEIGHT = 500, 375
OBJECT = (
    "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def write_set(root: Path, layout: str, images: int, classes: int, objects: float) -> None:
    """A test set of made-up boxes, `objects` per image on average; every image is the same file."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(root / "one.jpg")
    content: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}"} for c in range(classes)],
    }
    for i in tqdm(range(images), "test set"):
        (root / "JPEGImages" / f"{i:06d}.jpg").hardlink_to(root / "one.jpg")
        n = 1 + int(rng.poisson(objects - 1))
        corner = np.stack([rng.integers(1, WIDTH - 60, n), rng.integers(1, HEIGHT - 60, n)], axis=1)
        boxes, labels = np.hstack([corner, corner + rng.integers(10, 50, (n, 2))]).tolist(), rng.integers(0, classes, n)
        found = "".join(OBJECT.format(f"c{c}", *box) for c, box in zip(labels, boxes, strict=True))
        (root / "Annotations" / f"{i:06d}.xml").write_text(
            f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{found}</annotation>"
        )
        content["images"].append({"id": i, "file_name": f"{i:06d}.jpg", "width": WIDTH, "height": HEIGHT})
        for c, (x0, y0, x1, y1) in zip(labels.tolist(), boxes, strict=True):
            box, number = [x0, y0, x1 - x0, y1 - y0], len(content["annotations"]) + 1
            content["annotations"].append(
                {"id": number, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{i:06d}\n" for i in range(images)))
    (root / "test.json").write_text(json.dumps(content))
    spec: dict = {"name": "measured", "format": layout, "root": "."}
    if layout == "voc":
        spec |= {"classes": [f"c{c}" for c in range(classes)], "year": 2007, "splits": ["test"]}
    else:
        spec["splits"] = {"test": {"images": "JPEGImages", "annotations": "test.json"}}
    (root / "sets.yaml").write_text(yaml.safe_dump(spec))


def experiment(root: Path, classes: int, rows: int, trials: int) -> Plan:
    small = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
    opts = ["DATASETS.SPECS", f"('{root}/sets.yaml',)", "DATASETS.TRAIN", "('measured_test',)"]
    opts += ["DATASETS.TEST", "('measured_test',)", "MODEL.ROI_HEADS.NUM_CLASSES", str(classes)]
    content = {
        "title": "Made up",
        "source": "made up",
        "output": str(root / "out"),
        "trials": trials,
        "transfer": {"config": str(small), "opts": opts},
        "rows": [{"name": f"row {i}", "weights": None} for i in range(rows)],
    }
    (root / "table.yaml").write_text(yaml.safe_dump(content))
    return plan(root / "table.yaml")


def fill(made: Plan, per_image: int) -> None:
    """What finished trials leave, scored and saved as they do it."""
    (column,) = made.experiment.columns
    rng = np.random.default_rng(1)
    with tqdm(total=len(made.experiment.rows) * column.trials, desc="trials") as bar:
        for row in made.experiment.rows:
            job = row.job(column)
            assert job is not None
            cfg = made.config(job.config, job.opts)
            (spec,) = catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)
            dataset, results = catalog.open_dataset(spec), []
            for seed in column.seeds:
                folder = trial_folder(made.row_folder(column, row), seed)
                evaluator = PROTOCOLS[dataset.protocols[0]].evaluator(dataset)
                for record in dataset.records:
                    evaluator.add(detections(record, per_image, len(dataset.classes), rng))
                evaluator.save(folder)
                scores = evaluator.scores()
                evaluator.summarise(folder, scores)
                extra = {spec.name: scores.details(), "classes": list(dataset.classes)}
                results.append(
                    RunResult("train", made.engine.name, seed, digest(cfg), metrics=dict(scores.metrics), extra=extra)
                )
                results[-1].save(folder)
                curve(folder, seed, 1200, "total_loss", 2.5, 0.5)  # 24,000 iterations, one line in twenty
                bar.update()
            checkpoint.save_json(aggregate(results).to_json(), made.row_folder(column, row) / AGGREGATE_FILE)


def detections(record: dict, count: int, classes: int, rng: np.random.Generator) -> ImageDetections:
    truth = np.array([a["bbox"] for a in record["annotations"]])
    near = rng.integers(0, len(truth), count)
    boxes = (truth[near] + rng.normal(0, 6, (count, 4))).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.array([a["category_id"] for a in record["annotations"]], np.int64)[near]
    labels = np.where(rng.random(count) < 0.5, labels, rng.integers(0, classes, count))
    return ImageDetections(record["image_id"], boxes, rng.random(count).astype(np.float32), labels)


def seconds(file: Path) -> float:
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "tools" / "make_report.py"), str(file), "--engine", "torchvision"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--format", choices=("voc", "coco"), default="voc")
    p.add_argument("--images", type=int, default=4952)
    p.add_argument("--classes", type=int, default=20)
    p.add_argument("--objects", type=float, default=2.4, help="per image, on average; COCO has 7.3")
    p.add_argument("--detections", type=int, default=100, help="per image")
    p.add_argument("--rows", type=int, default=5)
    p.add_argument("--trials", type=int, default=5)
    p.add_argument("--repeats", type=int, default=3)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root, args.format, args.images, args.classes, args.objects)
        made = experiment(root, args.classes, args.rows, args.trials)
        fill(made, args.detections)
        ours, anew = [], []
        for _ in range(args.repeats):
            ours.append(seconds(root / "table.yaml"))
            for file in root.rglob(summary_file("measured_test")):
                file.unlink()
            anew.append(seconds(root / "table.yaml"))
    print(machine("torch", "numpy", "safetensors"))
    print(
        f"{args.rows * args.trials} trials of {args.images} images x {args.detections} detections x {args.classes} "
        f"classes ({args.format})"
    )
    print(f"make_report.py with summaries  {spread(ours, 1)} s")
    print(f"make_report.py without         {spread(anew, 1)} s")
    print(f"ratio                          {spread([a / b for a, b in zip(anew, ours, strict=True)], 1)}x")


if __name__ == "__main__":
    main()
