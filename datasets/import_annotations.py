#!/usr/bin/env python
"""Makes a data set in the COCO layout from another tool's annotations; images stay where they are.

    python datasets/import_annotations.py labelme photos --output data/cells --shares train=0.8 val=0.2
    python datasets/import_annotations.py via train=balloon/train/via_region_data.json \\
        val=balloon/val/via_region_data.json --output data/balloon
    python datasets/import_annotations.py yolo chess/data.yaml --output data/chess

Writes OUTPUT/annotations/SPLIT.json and OUTPUT/<its name>.yaml, the spec file that names the data sets, and checks
them. Nothing is written if anything is wrong. datasets/README.md says what needs no import (COCO's json, Pascal VOC).
"""

from __future__ import annotations

from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.limits import MAX_SEED, between
from pretrain.runtime.wording import visible
from transfer.data import doctor
from transfer.data.importers import IMPORTERS
from transfer.data.importers.importer import Options
from transfer.data.importers.to_coco import Plan, convert
from transfer.data.splits import read_shares


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("tool", choices=IMPORTERS, help="; ".join(f"{name}: {i.source}" for name, i in IMPORTERS.items()))
    p.add_argument("sources", nargs="+", metavar="[SPLIT=]SOURCE", help="what the tool has written")
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the jsons and the spec file")
    p.add_argument("--images", type=Path, metavar="DIR", help="folder that holds all images (the source's own)")
    p.add_argument(
        "--shares", nargs="+", default=[], metavar="SPLIT=SHARE", help="draw one source apart: train=0.8 val=0.2"
    )
    p.add_argument("--seed", type=number(between(0, MAX_SEED)), help="of that drawing (0)")
    p.add_argument(
        "--classes", nargs="+", metavar="NAME", help="all classes, in their order (the source's, or by name)"
    )
    p.add_argument(
        "--attribute", metavar="NAME", help="via: the attribute of a region that is its class (the only one)"
    )
    p.add_argument(
        "--leave-out", nargs="+", default=[], metavar="SHAPE", help="shapes that are not read, such as point line"
    )
    p.add_argument("--force", action="store_true", help="write over an earlier import")
    args = p.parse_args(argv)
    if args.seed is not None and not args.shares:
        p.error("--seed is that of --shares; give these, or leave it out")
    shares = read_shares(args.shares) if args.shares else {}
    plan = Plan(args.output, shares, args.seed or 0, args.classes, args.leave_out, args.force)
    specs, notes = convert(IMPORTERS[args.tool], args.sources, Options(args.images, args.attribute), plan)
    reports = [doctor.check(spec, decode=False) for spec in specs]
    print(visible("\n\n".join([*map(str, reports), *notes])))
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    run(main)
