#!/usr/bin/env python
"""Checks datasets: missing files, unreadable images, unlisted classes, impossible boxes, official image counts.

    python tools/check_dataset.py voc_2007_trainval voc_2007_test
    python tools/check_dataset.py --spec my_set.yaml              # all its splits
    python tools/check_dataset.py my_set_test --spec my_set.yaml

The exit code is 1 if a dataset is not known or has errors, including those that only matter in a test set (except
for the official sets).
"""

from __future__ import annotations

import sys

from pretrain.runtime.commands import Parser, run
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.wording import visible
from transfer.data import catalog, doctor


def main(argv: list[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help="dataset names; by default all splits of the spec files")
    p.add_argument("--spec", nargs="+", action="extend", default=[], metavar="FILE", help="spec files (YAML)")
    p.add_argument("--headers-only", action="store_true", help="do not decode the images: faster, finds less")
    args = p.parse_args(argv)
    if not args.names and not args.spec:
        p.error("name a dataset or give a spec file")
    try:
        names = args.names or [spec.name for file in args.spec for spec in catalog.read_spec_file(file)]
        specs = catalog.resolve(names, args.spec)
    except ExpectedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    reports = [doctor.check(spec, decode=not args.headers_only) for spec in specs]
    print(visible("\n\n".join(map(str, reports))))
    return 0 if all(report.ok and (report.scorable or report.spec.official) for report in reports) else 1


if __name__ == "__main__":
    run(main)
