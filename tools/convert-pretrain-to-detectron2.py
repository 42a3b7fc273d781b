#!/usr/bin/env python
"""Converts a pre-trained ResNet for Detectron2: tools/convert-pretrain-to-detectron2.py INPUT OUTPUT"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert.audit import AuditError
from transfer.convert.convert import convert
from transfer.convert.layouts import LayoutError
from transfer.convert.write import OutputError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="MoCo checkpoint, torchvision ResNet, or a trunk in Detectron2's form")
    parser.add_argument("output", help="file to write: .pkl or .pth")
    parser.add_argument("--verbose", action="store_true", help="print every renamed tensor")
    args = parser.parse_args(argv)
    try:
        done = convert(args.input, args.output)
    except (CheckpointError, LayoutError, AuditError, OutputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.verbose:
        for old, new in done.renamed.items():
            print(f"{old} -> {new}")
    print(done.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
