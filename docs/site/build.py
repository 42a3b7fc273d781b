#!/usr/bin/env python
"""Builds the site from the pages, the docstrings and the defaults of configs; a warning is an error.

python docs/site/build.py [FOLDER]     default: work/docs, whose html/index.html it is
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import api_pages
import config_pages
from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "datasets/README.md")


def listed(page: str) -> list[list[str]]:
    """The pages that each table of docs/README.md leads to, as Sphinx calls them."""
    tables, within = list[list[str]](), False
    for line in page.splitlines():
        if line.startswith("|") and not within:
            tables.append([])
        within = line.startswith("|")
        if within and (link := re.search(r"\]\(([\w./-]+)\.md\)", line)):
            tables[-1].append(os.path.normpath(f"docs/{link[1]}"))
    return tables


def toctree(title: str, names: list[str]) -> str:
    return "\n".join([f"# {title}", "", "```{toctree}", ":maxdepth: 1", "", *names, "```", ""])


def lay_out(source: Path) -> None:
    """Fills a folder with the repository's pages, at their places, and with those that are made."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source / "docs", ignore=shutil.ignore_patterns("site"))
    for name in PAGES:
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    for path in HERE.glob("*.md"):
        shutil.copyfile(path, source / path.name)
    guides, measured = listed((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    (source / "guides.md").write_text(toctree("Guides", ["docs/README", *guides]), encoding="utf-8")
    (source / "measured.md").write_text(toctree("Measured", measured), encoding="utf-8")
    for folder, pages in {"config": config_pages.pages(ROOT), "api": api_pages.pages(ROOT)}.items():
        (source / folder).mkdir()
        for name, text in pages.items():
            (source / folder / name).write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    out = Path(argv[0] if argv else ROOT / "work" / "docs").resolve()
    lay_out(out / "source")
    folders = [str(out / name) for name in ("cache", "source", "html")]
    return sphinx(["-b", "html", "-W", "--keep-going", "-q", "-c", str(HERE), "-d", *folders])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
