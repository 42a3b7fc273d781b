#!/usr/bin/env python
"""Evaluates saved detections again, without a model.

    python tools/eval_predictions.py work/run/predictions_voc_2007_test.json --dataset voc_2007_test
    python tools/eval_predictions.py results/VOC2007/Main --dataset voc_2007_test    # comp4_det_<class>.txt
    python tools/eval_predictions.py detections.json --dataset cells_test --spec cells.yaml

VOC sets are evaluated in the VOC way (boxes), COCO sets in the COCO way: boxes, and masks and keypoints if the file has
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.checkpoint import save_json
from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.limits import above
from pretrain.runtime.log import setup_logging
from pretrain.runtime.wording import visible
from transfer.data import catalog
from transfer.evaluation.evaluator import Scores
from transfer.evaluation.predictions import EvaluationError, load_coco_json, load_voc_text
from transfer.tasks.instances import INSTANCES, check_masks, scores_masks
from transfer.tasks.keypoints import KEYPOINTS


def scored(predictions: Path, name: str, specs: Sequence[str], sigmas: Sequence[float] = ()) -> Scores:
    dataset = catalog.open_dataset(catalog.resolve([name], specs)[0])
    protocol, more = INSTANCES.protocol(dataset), {}
    dataset.check_scorable()
    if predictions.is_dir():
        if not protocol.text_files:
            raise EvaluationError(
                f"'{predictions}' is a folder; '{name}' is scored by {protocol.label} and takes a json"
            )
        found = load_voc_text(predictions, dataset.classes)
    else:
        found = load_coco_json(predictions, dataset.category_ids)
    masks = any(d.masks is not None for d in found) and scores_masks(protocol)
    if masks:
        check_masks(dataset)
    if any(d.keypoints is not None for d in found):
        protocol, more = KEYPOINTS.protocol(dataset), {"sigmas": sigmas}
    evaluator = protocol.evaluator(dataset, masks=masks, **more)
    evaluator.merge([found])
    return evaluator.scores()


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("predictions", type=Path, help="COCO's results json, or a folder of VOC text files")
    p.add_argument("--dataset", required=True, metavar="NAME", help="what the detections are of")
    p.add_argument("--spec", action="append", default=[], metavar="FILE", help="YAML that names the data set")
    p.add_argument("--json", type=Path, metavar="FILE", help="write metrics and per-class table there")
    p.add_argument(
        "--oks-sigmas", type=number(above(0), float), nargs="+", default=[], help="of the keypoints (default: COCO's)"
    )
    args = p.parse_args(argv)
    setup_logging(None)
    scores = scored(args.predictions, args.dataset, args.spec, args.oks_sigmas)
    if args.json is not None:
        save_json({"dataset": args.dataset, **scores.to_json()}, args.json)
    for name, row in scores.per_class.items():
        print(f"  {visible(name):<22}" + "".join(f"{key:>16} {value:7.3f}" for key, value in row.items()))
    for name, value in scores.metrics.items():
        why = f"   ({scores.undefined[name]})" if name in scores.undefined else ""
        print(f"{name:<24}{value:8.3f}{why}")
    for note in scores.notes:
        print(visible(note))
    return 0


if __name__ == "__main__":
    run(main)
