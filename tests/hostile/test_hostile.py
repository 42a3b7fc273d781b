"""Hostile files through every tool that reads: no code is run, nothing raised, waited for, or written elsewhere.

The whole corpus, some 2,500 files, takes half an hour on two cores, and prints a table per reader:

    python -m pytest -m slow tests/hostile                               # HOSTILE_FILES=80 per reader's input: deeper
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.hostile import drive, readers, tree

pytestmark = pytest.mark.usefixtures("one_thread")

NUMBERS = range(90)  # the catalogue of a kind, and as many changed files
QUICK = ("check_dataset", "lint_config", "inspect_checkpoint", "convert-pretrain-to-detectron2", "eval_predictions")


def chosen(found: list[tree.Reader], each: int) -> list[tuple[tree.Reader, int]]:
    """`each` numbers per reader and input, the same at every call."""
    return [(r, n) for i, r in enumerate(found) for n in sorted(random.Random(f"{i}").sample(NUMBERS, each))]


def test_some_files(tmp_path: Path) -> None:
    root = tmp_path / "above" / "tree"
    tree.build(root, trained=False)
    quick = [reader for reader in readers.readers(root) if reader.tool in QUICK]
    found, wrong = drive.feed(chosen(quick, 1)[::2], root)
    assert not wrong and set(QUICK) == {name.split()[0] for name in found}


@pytest.mark.slow
def test_every_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "above" / "tree"
    tree.build(root)
    every = readers.readers(root)
    assert not (unfit := [said for reader in every if (said := drive.complaint(reader, root))]), "\n".join(unfit)
    files = chosen(every, int(os.environ.get("HOSTILE_FILES", "28")))
    with capsys.disabled():  # the tools take pytest's log handlers away
        found, wrong = drive.feed(files, root)
        sys.stderr.write(f"\n{drive.table(found)}\n")
    assert not wrong, "\n".join(wrong)
