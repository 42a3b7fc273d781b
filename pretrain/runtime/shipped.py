"""Finds the commands and configs that come with the packages, from any folder.

In a checkout `tools/`, `configs/` and `datasets/` stand beside `pretrain/`. An installation has them in a package
`moco_transfer`, where their names conflict with no others.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

PACKAGE = "moco_transfer"
CONFIGS = "configs"


def home() -> Path:
    """Returns the folder that holds `tools/`, `configs/` and `datasets/`: the checkout, or the installed package."""
    beside = Path(__file__).resolve().parents[2]
    installed = beside / PACKAGE
    return installed if installed.is_dir() else beside


def shipped_config(name: str) -> Path | None:
    """Returns the installed file for a name `configs/...`; None if there is none, or the name begins otherwise."""
    path = Path(name)
    if path.parts[:1] != (CONFIGS,) or ".." in path.parts or "\0" in name:
        return None
    there = home() / path
    return there if there.is_file() else None


def beside(file: Path, name: str) -> Path:
    """Returns the file that another file names: relative to that file's folder, or the installed one of `configs/...`.

    If neither exists, the first is returned, so that opening it gives the error.
    """
    path = Path(name) if os.path.isabs(name) else file.parent / name
    if os.path.lexists(path) or (there := shipped_config(name)) is None:
        return path
    logger.info("'%s' names '%s', which is not beside it; taking the installed '%s'", file, name, there)
    return there


def config_file(name: str) -> str:
    """Returns the file that a word of a command names: one on disk, or the installed one of `configs/...`.

    It is a `type=` for argparse. If the installed file is taken, a line on stderr says so. A name that leads to neither
    is returned as it is, so that opening it gives the error.
    """
    if os.path.lexists(name) or (there := shipped_config(name)) is None:
        return name
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one says it
        sys.stderr.write(f"'{name}' is not in this folder; taking the installed '{there}'\n")
    return str(there)
