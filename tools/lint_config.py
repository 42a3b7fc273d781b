#!/usr/bin/env python
"""Checks configs against the papers' protocol, their weights and their data, as every training does before it starts.

    python tools/lint_config.py 'configs/transfer/voc/*.yaml'
    python tools/lint_config.py my.yaml MODEL.WEIGHTS moco_v2.pkl --json

The exit code is 0 without errors (even with warnings), 1 with errors, 2 if there is nothing to lint.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.commands import Parser, run
from pretrain.runtime.config import ConfigError
from pretrain.runtime.shipped import config_files, not_there
from pretrain.runtime.wording import visible
from transfer.config.initial_weights import weights_facts
from transfer.config.lint import ERROR, Finding
from transfer.config.load import load_config
from transfer.engines.base import Engine
from transfer.engines.select import CHOICES, select
from transfer.tasks.inspect import inspect

GOOD = " keys, values, protocol, weights and data sets were checked; nothing is wrong"


def findings(file: str, opts: Sequence[str], engine: Engine) -> list[Finding]:
    try:
        cfg = load_config(file, opts, engine.defaults())
    except ConfigError as error:
        return [Finding(ERROR, "load", "-", str(error))]
    try:
        return inspect(cfg, weights_facts(cfg.MODEL.WEIGHTS), engine.part_names())
    except CheckpointError as error:
        return [Finding(ERROR, "weights", "MODEL.WEIGHTS", str(error)), *inspect(cfg, None, engine.part_names())]


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(description=__doc__)
    p.add_argument("words", nargs="+", metavar="FILE", help="configs (.yaml, .yml), then KEY VALUE options for all")
    p.add_argument("--engine", default="auto", choices=CHOICES, help="whose defaults and registered names count")
    p.add_argument("--json", action="store_true", help="print a list of {file, findings} instead of text")
    args = p.parse_args(argv)
    words = [w for word in args.words for w in (config_files(word) if word.endswith((".yaml", ".yml")) else [word])]
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    opts = words[len(files) :]
    if missing := [file for file in files if not Path(file).is_file()]:
        raise ConfigError(not_there(missing[0]))
    if not files or words[: len(files)] != files:
        raise ConfigError(f"give config files (.yaml) first, then options; the first word is '{words[0]}'")
    engine = select(args.engine)
    found = {file: findings(file, opts, engine) for file in files}
    if args.json:
        table = [{"file": file, "findings": [dataclasses.asdict(f) for f in fs]} for file, fs in found.items()]
        print(json.dumps(table, indent=1))
    else:
        for file, fs in found.items():
            print(f"{file}:{'' if fs else GOOD}", *(visible(f"  {f}") for f in fs), sep="\n")
    return int(any(f.level == ERROR for fs in found.values() for f in fs))


if __name__ == "__main__":
    run(main)
