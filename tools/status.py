#!/usr/bin/env python
"""Where every run of an experiment stands: tools/status.py work/demo [--watch 10]"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from pretrain.runtime.commands import leave
from transfer.trials.status import runs, screen


def folder_of(path: str) -> Path:
    """The folder itself, or the output folder that an experiment file names."""
    if Path(path).suffix != ".yaml":
        return Path(path)
    content = yaml.safe_load(Path(path).read_text())
    return Path(content.get("output", f"work/{Path(path).stem}"))


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("where", metavar="DIR|EXPERIMENT.yaml", help="an experiment's output, or any folder of runs")
    p.add_argument("--watch", type=float, metavar="SECONDS", help="show it again and again, until Ctrl-C")
    args = p.parse_args(argv)
    try:
        folder = folder_of(args.where)
    except (OSError, yaml.YAMLError, AttributeError) as error:
        print(f"error: cannot read the experiment file '{args.where}': {error}", file=sys.stderr)
        return 2
    if not folder.is_dir():
        print(f"error: '{folder}' does not exist: nothing has run there yet, or give another folder", file=sys.stderr)
        return 2
    try:
        while True:
            text = screen(list(runs(folder)), shutil.get_terminal_size((110, 24)).columns)
            if args.watch is None:
                print(text)
                return 0
            print(f"\x1b[H\x1b[2J{folder}, {time.strftime('%H:%M:%S')}\n\n{text}", flush=True)
            time.sleep(args.watch)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    leave(main)
