"""The site's made pages: every config key with what is known of it, every module, every page of docs/."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pretrain.runtime.config import dotted_keys, value_at
from tests.conftest import ROOT
from tests.docs.commands import links

SITE = ROOT / "docs" / "site"
DEFAULTS = """
T = {
    "A": 1,  # of A
    # two
    # lines
    "B": {  # of B
        "C": [
            1,
        ],  # of C
        "D": "# no comment",
    },
}
_C.X = 1  # of X
# above,
# in two lines
_C.Y.Z = 2

# apart

_C.W = 3
def f(c):
    c.V = 4  # of V
"""


@pytest.fixture(scope="module")
def load() -> Any:
    """Imports a file of docs/site, which is a folder of scripts and no package."""

    def one(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    names = ("comments", "config_pages", "api_pages", "conf")
    path = list(sys.path)
    yield {name: one(name) for name in names}.__getitem__
    sys.path[:] = path
    for name in names:
        del sys.modules[name]


def rows(page: str) -> dict[str, list[str]]:
    """Dotted key -> the cells of its row."""
    found, branch = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            branch = line[3:].replace("The rest", "")
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[".".join(filter(None, [branch, cells[0].strip("`")]))] = cells
    return found


@pytest.mark.parametrize("name", ["pretraining", "classification", "transfer"])
def test_every_key_has_a_row_with_its_default_and_a_meaning(load, name):
    config_pages = load("config_pages")
    tree, found = config_pages.trees()[name], rows(config_pages.pages(ROOT)[f"{name}.md"])
    assert list(found) and set(found) == set(dotted_keys(tree.cfg))
    for key, (_, default, kind, meaning) in found.items():
        assert default == f"`{config_pages.shown(value_at(tree.cfg, key))}`"
        assert kind and len(meaning) > 5, key


def test_the_engines_are_those_of_the_support_tables(load):
    found = rows(load("config_pages").pages(ROOT)["transfer.md"])
    assert "Torchvision" not in found["SOLVER.MAX_ITER"][3]
    assert "its default alone: steps count from iteration 0" in found["SOLVER.RESCALE_INTERVAL"][3]
    assert "no effect: pictures are drawn from saved predictions" in found["VIS_PERIOD"][3]
    assert "semantic: honoured" in found["INPUT.RANDOM_SCALE"][3]
    assert "above 0 and at most 1" in found["DATALOADER.RANDOM_SUBSET_RATIO"][2]


def test_comments_stand_behind_or_above(load, tmp_path):
    (tmp_path / "d.py").write_text(DEFAULTS)
    found = load("comments").comments(tmp_path / "d.py", {"T": "", "_C": "", "c": "IN"})
    assert found == {"A": "of A", "B": "of B", "B.C": "of C", "X": "of X", "Y.Z": "above, in two lines", "IN.V": "of V"}


def test_every_module_has_a_page_and_says_what_it_is(load):
    pages = load("api_pages").pages(ROOT)
    known = load("api_pages").modules(ROOT)
    assert set(pages) == {f"{name}.rst" for name in known} | {"index.rst"} and "pretrain.moco" in known
    for name, path in known.items():
        above = name.rpartition(".")[0]
        assert f"   {name}\n" in pages[f"{above or 'index'}.rst"], name
        if path.name != "__init__.py":
            assert load("api_pages").summary(path), f"{path} has no docstring"


def test_docstrings_are_plain_text(load):
    conf = load("conf")
    lines = ["Takes *args, a|b and name_ of `Map`s, `**kw` too."]
    conf.from_plain_text(None, "function", "", None, None, lines)
    assert lines == [r"Takes \*args, a\|b and name\_ of `Map`\ s, `**kw` too."]
    assert conf.literal(["A:", "    x: 1", "", "    y", "B"]) == ["A:", "", "::", "", "    x: 1", "", "    y", "", "B"]


def test_every_page_is_listed():
    listed = {(ROOT / "docs" / link).resolve() for _, link in links("docs/README.md") if link.endswith(".md")}
    pages = {path for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"}
    assert {p.name for p in pages - listed} == set(), (
        "put it into a table of docs/README.md, from which the site is made"
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    for name in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
        pytest.importorskip(name, reason="make docs installs it")
    done = subprocess.run([sys.executable, SITE / "build.py", tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for page in ("index", "README", "docs/pretraining", "config/transfer", "api/pretrain.moco"):
        assert (tmp_path / "html" / f"{page}.html").is_file()
