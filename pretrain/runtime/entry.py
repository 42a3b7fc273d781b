"""Implements the command `moco-transfer`: lists the commands, and runs one as `python tools/NAME.py` would."""

from __future__ import annotations

import ast
import importlib.metadata
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pretrain.runtime import commands
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.shipped import command_name, home
from pretrain.runtime.wording import did_you_mean, short

USAGE = """usage: moco-transfer COMMAND [WORDS ...]     COMMAND --help says what it takes

Configs are named by their path, or as configs/... from any folder: what stands there wins, else the installed one is
taken. With several GPUs: torchrun --nproc-per-node 8 --no-python moco-transfer train-moco ...
"""
GROUPS = {"tools": "commands", "datasets": "data sets"}


def scripts(folder: str) -> dict[str, Path]:
    """Returns name -> file of the commands in a folder (a key of `GROUPS`)."""
    return {command_name(path.name): path for path in sorted((home() / folder).glob("*.py"))}


def purpose(path: Path) -> str:
    """Returns the first line of a command's docstring without the command that some repeat there; imports nothing."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(": tools/")[0]


def listing(groups: Mapping[str, Mapping[str, Path]]) -> str:
    """Returns the text that `moco-transfer` prints if it is not told what to run."""
    lines = [USAGE]
    for folder, known in groups.items():
        lines += [f"{GROUPS[folder]}:", *(f"  {name:<32}{purpose(path)}" for name, path in known.items()), ""]
    return "\n".join(lines)


def main() -> int:
    """Runs the command that the first word names, as `python` would run its file.

    Raises:
        ExpectedError: there is no such command.
    """
    groups = {folder: scripts(folder) for folder in GROUPS}
    known = {name: path for group in groups.values() for name, path in group.items()}
    word, *rest = sys.argv[1:] or ["--help"]
    if word in ("-h", "--help"):
        sys.stdout.write(listing(groups))
    elif word == "--version":
        sys.stdout.write(f"moco-transfer {importlib.metadata.version('moco-transfer')}\n")
    elif (path := known.get(command_name(word))) is not None:
        sys.argv = [str(path), *rest]
        runpy.run_path(str(path), run_name="__main__")
    else:
        near = did_you_mean(command_name(word), known) or "; moco-transfer --help lists them"
        raise ExpectedError(f"no command is called {short(word)}{near}")
    return 0


def entry() -> NoReturn:
    """Runs `main` for the installed command, and ends as every command does."""
    commands.run(main)
