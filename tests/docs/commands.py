"""What the pages say: commands, files written as YAML, links and code spans, each with its line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import ROOT

PAGES = ("README.md", "datasets/README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
LANGUAGES = ("bash", "yaml", "text", "python")  # Python of docs/extending.md is run by tests/docs/test_extending.py


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the page's line of its first line, and its text."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line of a bash block, its continuations joined and its comment left off."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell would split them; of `~/` and `NAME=value` the runner takes care."""
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(page: str) -> list[Block]:
    """Every fenced block. Fails on a fence that is not closed and on blocks made by indenting."""
    found, begin, language, before = [], None, "", ""
    lines = (ROOT / page).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if begin is None:
                begin, language = number + 1, line[3:].strip()
            else:
                found.append(Block(page, begin, language, "\n".join(lines[begin - 1 : number - 1]) + "\n"))
                begin = None
        elif begin is None and line.startswith("    ") and not before.strip():
            raise AssertionError(f"{page}:{number}: an indented block; write a fence with one of {LANGUAGES}")
        before = line
    assert begin is None, f"{page}:{begin}: the fence is not closed"
    return found


def commands(page: str) -> list[Command]:
    """The commands of the page's bash blocks, from top to bottom."""
    found = []
    for block in blocks(page):
        if block.language != "bash":
            continue
        whole, first = "", block.line
        for number, line in enumerate(block.text.splitlines(), block.line):
            first = first if whole else number
            whole += line
            if whole.endswith("\\"):
                whole = whole[:-1].rstrip() + " "
                continue
            if text := re.sub(r"(^|\s)#.*", "", re.sub(" +", " ", whole)).strip():
                found.append(Command(page, first, text))
            whole = ""
    return found


def named_files(page: str) -> dict[str, str]:
    """The page's YAML blocks that begin with a file's name, `# name.yaml`: name -> text."""
    found = {}
    for block in blocks(page):
        name = re.match(r"# (\S+\.yaml)\b", block.text)
        if block.language == "yaml" and name is not None:
            found[name[1]] = block.text
    return found


def prose(page: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of everything outside of fences."""
    fenced = False
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def spans(page: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of every code span."""
    for number, line in prose(page):
        for text in re.findall(r"`([^`]+)`", line):
            yield number, text


def links(page: str) -> Iterator[tuple[int, str]]:
    """(line number, target) of every link and picture."""
    for number, line in prose(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            yield number, target


def anchors(page: str) -> set[str]:
    """The names that GitHub gives to the page's headings."""
    titles = (line.lstrip("#").strip().lower() for _, line in prose(page) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
