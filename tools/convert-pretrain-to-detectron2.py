#!/usr/bin/env python
"""Converts a pre-trained ResNet, proves that nothing was lost, and only then writes it.

    python tools/convert-pretrain-to-detectron2.py moco_v2_800ep.pth.tar moco_v2.pkl
    python tools/convert-pretrain-to-detectron2.py dino.pth dino.pth.pkl --trunk "student > module.backbone."
    python tools/convert-pretrain-to-detectron2.py moco_v2.pkl r50.pth --names torchvision       # and back

The exit code is 0 only for a proven conversion, 2 with one sentence on stderr otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.wording import visible
from transfer.convert import conversion_report
from transfer.convert.convert import convert
from transfer.convert.read import runs
from transfer.convert.write import NAMES
from transfer.engines.select import detectron2_verify


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("input", help="checkpoint of a layout in docs/conversion.md, or a converted file")
    p.add_argument("output", help="file to write: .pkl, .pth or .safetensors")
    p.add_argument("--trunk", help="which trunk, where the file holds several; errors and the report list them")
    p.add_argument(
        "--names", choices=NAMES, help="of the tensors; default: torchvision in .safetensors, else detectron2"
    )
    p.add_argument("--emit-config", metavar="FILE", help="also write the YAML fragment that fits these weights")
    p.add_argument("--trust", action="store_true", help="unpickle a file that asks for more than data: it can run code")
    p.add_argument("--json", action="store_true", help="print the report, or the refusal, as JSON")
    p.add_argument("--verbose", action="store_true", help="print every renamed tensor, to stderr")
    args = p.parse_args(argv)
    try:
        if args.trust:
            print("--trust: unpickling calls", ", ".join(runs(args.input)) or "nothing beyond data", file=sys.stderr)
        done = convert(
            args.input, args.output, args.trunk, args.names, args.trust, detectron2_verify(), args.emit_config
        )
    except (ExpectedError, OSError) as error:
        if args.json:
            print(json.dumps({"proven": False, "error": str(error)}, indent=1))
        raise
    if args.verbose:
        for old, new in done.renamed.items():
            print(f"{old} -> {new}", file=sys.stderr)
    print(
        json.dumps(conversion_report.as_json(done), indent=1) if args.json else visible(conversion_report.table(done))
    )
    return 0


if __name__ == "__main__":
    run(main)
