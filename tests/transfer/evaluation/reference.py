"""The VOC metric as plain loops, one detection at a time, to hold the vectorised one against; and random problems."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from transfer.evaluation.predictions import ImageDetections

Records = list[dict[str, Any]]


def iou(a: list[float], b: list[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1.0
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1.0
    inter = max(w, 0.0) * max(h, 0.0)
    return inter / ((a[2] - a[0] + 1.0) * (a[3] - a[1] + 1.0) + (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0) - inter)


def naive_ap(
    records: Records, detections: list[ImageDetections], cls: int, threshold: float, year: int, rounded: bool = True
) -> float:
    """AP in percent of one class at one overlap."""
    objects: dict[Any, list[list[float]]] = {}
    difficult: dict[Any, list[bool]] = {}
    for r in records:
        mine = [a for a in r["annotations"] if a["category_id"] == cls]
        objects[r["image_id"]] = [[a["bbox"][0] + 1, a["bbox"][1] + 1, *a["bbox"][2:]] for a in mine]
        difficult[r["image_id"]] = [bool(a["difficult"]) for a in mine]
    n_positive = sum(not d for flags in difficult.values() for d in flags)

    lines: list[tuple[Any, float, list[float]]] = []
    for d in detections:
        for box, score, c in zip(d.boxes, d.scores, d.classes, strict=True):
            if c == cls:
                one = np.ones(1, box.dtype)[0]
                coordinates = [float(v) for v in (box[0] + one, box[1] + one, box[2], box[3])]
                score = float(score)
                if rounded:
                    coordinates, score = [float(f"{v:.1f}") for v in coordinates], float(f"{score:.3f}")
                lines.append((d.image_id, score, coordinates))
    order = np.argsort(-np.array([score for _, score, _ in lines]))

    taken = {image_id: [False] * len(boxes) for image_id, boxes in objects.items()}
    tp = fp = 0
    recall, precision = [], []
    for i in order:
        image_id, _, box = lines[i]
        overlaps = [iou(box, gt) for gt in objects[image_id]]
        j = int(np.argmax(overlaps)) if overlaps else -1
        if j < 0 or not overlaps[j] > threshold:
            fp += 1
        elif not difficult[image_id][j]:
            tp, fp = (tp, fp + 1) if taken[image_id][j] else (tp + 1, fp)
            taken[image_id][j] = True
        recall.append(tp / n_positive if n_positive else 0.0)
        precision.append(tp / max(tp + fp, 1e-12))
    if year == 2007:
        points = [max([p for r, p in zip(recall, precision, strict=True) if r >= t], default=0.0) for t in elevenths()]
        return 100 * sum(points) / 11
    area, last = 0.0, 0.0
    for i, r in enumerate(recall):
        area += (r - last) * max(precision[i:])
        last = r
    return 100 * area


def elevenths() -> list[float]:
    return np.arange(0.0, 1.1, 0.1).tolist()


def random_problem(
    seed: int, n_images: int = 30, n_classes: int = 4, size: int = 100, unseen: tuple[int, ...] = (), ties: bool = True
) -> tuple[Records, list[ImageDetections]]:
    """Ground truth with integer boxes and difficult objects; detections around it and elsewhere, several per object,
    with many equal scores, float32 as detectors give them. Classes in `unseen` have no object, but detections."""
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        corner = rng.integers(0, size - 22, (n, 2))
        return np.concatenate([corner, corner + rng.integers(2, 22, (n, 2))], axis=1).astype(np.float64)

    records, detections = [], []
    for i in range(n_images):
        n = int(rng.integers(0, 7))
        truth = boxes(n)
        classes = rng.choice([c for c in range(n_classes) if c not in unseen], n)
        annotations = [
            {"bbox": box, "category_id": int(c), "iscrowd": 0, "difficult": int(rng.random() < 0.2)}
            for box, c in zip(truth.tolist(), classes, strict=True)
        ]
        records.append(
            {
                "image_id": f"{i:04d}",
                "file_name": f"{i:04d}.jpg",
                "height": size,
                "width": size,
                "annotations": annotations,
            }
        )
        if rng.random() < 0.1:
            continue
        around = np.repeat(truth, 2, axis=0)
        found = np.concatenate([around + rng.normal(0, 1.2, around.shape), boxes(int(rng.integers(0, 5)))])
        labels = np.concatenate([np.repeat(classes, 2), rng.integers(0, n_classes, len(found) - len(around))])
        scores = np.round(rng.random(len(found)), 1 if ties else 6)
        detections.append(
            ImageDetections(f"{i:04d}", found.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64))
        )
    return records, detections


def write_voc(root: Path, records: Records, names: list[str]) -> None:
    """The ground truth as the XML files that Detectron2 reads, in the split "test"; no images."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for r in records:
        objects = ""
        for a in r["annotations"]:
            x0, y0, x1, y1 = (int(v) for v in a["bbox"])
            objects += (
                f"<object><name>{names[a['category_id']]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{a['difficult']}</difficult><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
                f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            )
        (root / "Annotations" / f"{r['image_id']}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets/Main/test.txt").write_text("\n".join(r["image_id"] for r in records) + "\n")


def run_detectron2(
    folder: Path, records: Records, detections: list[ImageDetections], names: list[str], year: int
) -> tuple[dict[str, float], float]:
    """AP, AP50 and AP75 in percent by Detectron2's evaluator, and the processor seconds it took."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    write_voc(folder, records, names)
    MetadataCatalog.get(str(folder)).set(thing_classes=names, dirname=str(folder), year=year, split="test")
    outputs = []
    for d in detections:
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(torch.from_numpy(d.boxes.copy()))
        instances.scores, instances.pred_classes = torch.from_numpy(d.scores), torch.from_numpy(d.classes)
        outputs.append(({"image_id": d.image_id}, {"instances": instances}))
    start = time.process_time()
    evaluator = PascalVOCDetectionEvaluator(str(folder))
    evaluator.reset()
    for image, output in outputs:
        evaluator.process([image], [output])
    result = evaluator.evaluate()["bbox"]
    return result, time.process_time() - start
