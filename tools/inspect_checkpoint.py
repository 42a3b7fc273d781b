#!/usr/bin/env python
"""Says what is in a checkpoint, or how far two are apart.

    python tools/inspect_checkpoint.py moco_v2_800ep.pth.tar
    python tools/inspect_checkpoint.py --diff imagenet.pkl moco_v2.pkl --picture gap.png

Nothing is unpickled that is not data. The exit code is 0 if the file has a trunk that can be converted (names, shapes
and values are checked; only a conversion compares the features), 1 if it has none, 2 if it cannot be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.wording import visible
from transfer.convert import contents, distance
from transfer.convert.convert import take
from transfer.convert.read import runs


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument("file", nargs="?", help="checkpoint to look into")
    p.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare two trunks, stage by stage")
    p.add_argument("--trunk", action="append", help="which trunk (with --diff, once for both or once for each)")
    p.add_argument("--picture", metavar="FILE", help="with --diff: also draw it (.png, .pdf, .svg)")
    p.add_argument("--trust", action="store_true", help="unpickle a file that asks for more than data: it can run code")
    p.add_argument("--json", action="store_true", help="print JSON")
    args = p.parse_args(argv)
    args.trunk = args.trunk or [None]
    if (args.file is None) == (args.diff is None):
        p.error("give one file, or --diff A B")
    if args.picture is not None and not args.diff:
        p.error("--picture draws a comparison; give --diff A B")
    if len(args.trunk) > (2 if args.diff else 1):
        p.error(f"--trunk was given {len(args.trunk)} times; give it once for each file at most")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.picture is not None:
        distance.check_picture(args.picture)
    if args.trust:
        for file in args.diff or [args.file]:
            print(f"--trust: {file} calls", ", ".join(runs(file)) or "nothing beyond data", file=sys.stderr)
    if args.diff:
        a, b = (take(file, trunk, args.trust) for file, trunk in zip(args.diff, args.trunk * 2, strict=False))
        gaps = distance.compare(a, b)
        if args.picture:
            distance.draw(gaps, args.picture)
        found, text, status = dataclasses.asdict(gaps), distance.as_text(gaps), 0
    else:
        found = contents.contents(args.file, args.trunk[0], args.trust)
        text, status = contents.as_text(found), int(found["why_not"] is not None)
    print(json.dumps(found, indent=1, allow_nan=False) if args.json else visible(text))
    return status


if __name__ == "__main__":
    run(main)
