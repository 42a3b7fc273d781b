"""What comes with the packages: commands and configs, found from any folder.

In a checkout `tools/`, `configs/` and `datasets/` stand beside `pretrain/`. An installation has them in a package
`moco_transfer`, where their names get in nobody's way.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "moco_transfer"
CONFIGS = "configs"


def home() -> Path:
    """The folder that holds `tools/`, `configs/` and `datasets/`: the checkout, or the installed package."""
    beside = Path(__file__).resolve().parents[2]
    installed = beside / PACKAGE
    return installed if installed.is_dir() else beside


def config_file(name: str) -> str:
    """The file that a command's word names: one on disk, else, of `configs/...`, the one that was installed.

    What argparse takes as `type=`. Where the installed one is taken, a line on stderr says so. A name that leads to
    neither is left to whoever opens it.
    """
    path = Path(name)
    if path.parts[:1] != (CONFIGS,) or ".." in path.parts or "\0" in name or os.path.lexists(name):
        return name
    shipped = home() / path
    if not shipped.is_file():
        return name
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one says it
        sys.stderr.write(f"'{name}' is not in this folder; taking the installed '{shipped}'\n")
    return str(shipped)
