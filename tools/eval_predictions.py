#!/usr/bin/env python
"""Evaluates saved detections again, without a model.

    python tools/eval_predictions.py work/run/predictions_voc_2007_test.json --dataset voc_2007_test
    python tools/eval_predictions.py results/VOC2007/Main --dataset voc_2007_test    # comp4_det_<class>.txt
    python tools/eval_predictions.py detections.json --dataset cells_test --spec cells.yaml

VOC sets are evaluated in the VOC way (boxes), COCO sets in the COCO way (boxes, and masks if the file has them).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.checkpoint import save_json
from pretrain.runtime.commands import run
from pretrain.runtime.log import setup_logging
from transfer.data import catalog
from transfer.engines.evaluators import evaluate_detections
from transfer.evaluation.predictions import EvaluationError, load_coco_json, load_voc_text


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("predictions", type=Path, help="COCO's results json, or a folder of VOC text files")
    p.add_argument("--dataset", required=True, metavar="NAME", help="what the detections are of")
    p.add_argument("--spec", action="append", default=[], metavar="FILE", help="YAML that names the data set")
    p.add_argument("--json", type=Path, metavar="FILE", help="write metrics and per-class table there")
    args = p.parse_args(argv)
    setup_logging(None)
    (spec,) = catalog.resolve([args.dataset], args.spec)
    if args.predictions.is_dir():
        if spec.format == "coco":
            raise EvaluationError(f"'{args.predictions}' is a folder; '{spec.name}' is a COCO set and takes a json")
        found = load_voc_text(args.predictions, catalog.class_names(spec))
    else:
        found = load_coco_json(args.predictions, catalog.category_ids(spec))
    records = catalog.load(spec)
    place = {record["image_id"]: i for i, record in enumerate(records)}
    found.sort(key=lambda d: place.get(d.image_id, -1))  # equal scores count in the data set's order
    metrics, details = evaluate_detections(spec, records, found, None)
    if args.json is not None:
        save_json({"dataset": spec.name, "metrics": metrics, **details}, args.json)
    for name, row in details["per_class"].items():
        print(f"  {name:<22}" + "".join(f"{key:>9} {value:7.3f}" for key, value in row.items()))
    for name, value in metrics.items():
        print(f"{name:<24}{value:8.3f}")
    return 0


if __name__ == "__main__":
    run(main)
