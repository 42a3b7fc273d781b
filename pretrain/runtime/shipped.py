"""What comes with the packages: commands and configs, found from any folder.

In a checkout `tools/`, `configs/` and `datasets/` stand beside `pretrain/`. An installation has them in a package
`moco_transfer`, where their names get in nobody's way.
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
    """The folder that holds `tools/`, `configs/` and `datasets/`: the checkout, or the installed package."""
    beside = Path(__file__).resolve().parents[2]
    installed = beside / PACKAGE
    return installed if installed.is_dir() else beside


def shipped_config(name: str) -> Path | None:
    """The installed file that is called `configs/...`; None if there is none, or the name is another one."""
    path = Path(name)
    if path.parts[:1] != (CONFIGS,) or ".." in path.parts or "\0" in name:
        return None
    there = home() / path
    return there if there.is_file() else None


def beside(file: Path, name: str) -> Path:
    """The file that a file names: relative to its own folder, else, of `configs/...`, the one that was installed.

    Where there is neither, the first is returned for whoever opens it.
    """
    path = Path(name) if os.path.isabs(name) else file.parent / name
    if os.path.lexists(path) or (there := shipped_config(name)) is None:
        return path
    logger.info("'%s' names '%s', which is not beside it; taking the installed '%s'", file, name, there)
    return there


def config_file(name: str) -> str:
    """The file that a command's word names: one on disk, else, of `configs/...`, the one that was installed.

    What argparse takes as `type=`. Where the installed one is taken, a line on stderr says so. A name that leads to
    neither is left to whoever opens it.
    """
    if os.path.lexists(name) or (there := shipped_config(name)) is None:
        return name
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one says it
        sys.stderr.write(f"'{name}' is not in this folder; taking the installed '{there}'\n")
    return str(there)
