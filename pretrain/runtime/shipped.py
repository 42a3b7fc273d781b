"""Finds the commands and configs that come with the packages, from any folder.

In a checkout `tools/`, `configs/` and `datasets/` stand beside `pretrain/`. An installation has them in a package
`moco_transfer`, where their names conflict with no others.
"""

from __future__ import annotations

import difflib
import glob
import logging
import os
import re
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

PACKAGE = "moco_transfer"
CONFIGS = "configs"
COMMAND = "moco-transfer"
_SCRIPT = re.compile(r"(?P<torchrun>\btorchrun [^\n]*?)?(?:\bpython )?\b(?:tools|datasets)/(?P<file>[\w-]+\.py)\b")


def home() -> Path:
    """Returns the folder that holds `tools/`, `configs/` and `datasets/`: the checkout, or the installed package."""
    beside = Path(__file__).resolve().parents[2]
    installed = beside / PACKAGE
    return installed if installed.is_dir() else beside


def is_installed() -> bool:
    """Returns whether this is an installation, which has neither a Makefile nor `tools/` in any folder of the user."""
    return home().name == PACKAGE


def as_installed(text: str) -> str:
    """Returns a text with the commands that it names, such as `python tools/train_net.py`, as this place has them.

    In a checkout that is the text itself; in an installation it is `moco-transfer train-net`, under torchrun too.
    """
    return _SCRIPT.sub(_command, text) if is_installed() else text


def command_name(word: str) -> str:
    """Returns the command's name, `train-net`, however it is written: tools/train_net.py, train_net, train-net."""
    return Path(word).name.removesuffix(".py").replace("_", "-")


def _command(found: re.Match[str]) -> str:
    torchrun = found["torchrun"]
    return f"{torchrun and f'{torchrun}--no-python ' or ''}{COMMAND} {command_name(found['file'])}"


def shipped_config(name: str) -> Path | None:
    """Returns the installed file for a name `configs/...`; None if there is none, or the name begins otherwise."""
    there = home() / name
    return there if _is_shipped(name) and there.is_file() else None


def _is_shipped(name: str) -> bool:
    parts = Path(name).parts
    return parts[:1] == (CONFIGS,) and ".." not in parts and "\0" not in name


def config_files(word: str) -> list[str]:
    """Returns the files that a word names: one as `config_file` has it, or all that match a pattern, sorted.

    A pattern `configs/...` that matches nothing on disk is one of the installed files. A pattern that matches nothing
    at all is returned as it is.
    """
    if not glob.has_magic(word) or os.path.lexists(word):
        return [config_file(word)]
    found = sorted(glob.glob(word, recursive=True))
    if not found and _is_shipped(word) and (found := sorted(glob.glob(str(home() / word), recursive=True))):
        _say(f"'{word}' matches nothing in this folder; taking the {len(found)} installed files of '{home()}'")
    return found or [word]


def not_there(path: str | os.PathLike[str]) -> str:
    """Returns what to say of a config file that does not exist, with the nearest names beside it and installed."""
    path = Path(path)
    known = {p.stem: f"{CONFIGS}/{p.relative_to(home() / CONFIGS)}" for p in (home() / CONFIGS).rglob("*.yaml")}
    known |= {p.stem: str(p) for p in path.parent.glob("*.y*ml")} if "\0" not in str(path) else {}
    near = [known[name] for name in difflib.get_close_matches(path.stem, known, n=3, cutoff=0.8)]
    remedy = f"did you mean {' or '.join(near)}?" if near else "check the path"
    return f"config file {str(path)!r} does not exist; {remedy}"


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
    _say(f"'{name}' is not in this folder; taking the installed '{there}'")
    return str(there)


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one says it
        sys.stderr.write(f"{line}\n")
