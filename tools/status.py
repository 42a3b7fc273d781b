#!/usr/bin/env python
"""Shows where every run of an experiment stands: tools/status.py work/demo [--watch 10]"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.commands import Parser, number, run
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.limits import between
from pretrain.runtime.shipped import config_file
from pretrain.runtime.strict_yaml import load_yaml
from pretrain.runtime.wording import short
from transfer.trials.status import runs, screen


def folder_of(path: str) -> Path:
    """The folder itself, or the output folder that an experiment file names."""
    if Path(path).suffix != ".yaml":
        return Path(path)
    output = load_yaml(path).get("output", f"work/{Path(path).stem}")
    if not isinstance(output, str):
        raise ConfigError(f"{path}: output is {short(output)}; give a folder")
    return Path(output)


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument(
        "where", type=config_file, metavar="DIR|EXPERIMENT.yaml", help="an experiment's output, or any folder of runs"
    )
    p.add_argument(
        "--watch",
        type=number(between(0, 86400), float),
        metavar="SECONDS",
        help="show it again and again, until Ctrl-C",
    )
    args = p.parse_args(argv)
    folder = folder_of(args.where)
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' does not exist: nothing has run there yet, or give another folder")
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
    run(main)
