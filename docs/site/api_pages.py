"""A page per module of the packages, which Sphinx fills from the docstrings, and an index per package."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGES = ("pretrain", "transfer")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module below `PACKAGES`; packages by their `__init__.py`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def pages(root: Path) -> dict[str, str]:
    """Name of the file -> reStructuredText, which autodoc writes. `root` is the repository."""
    found = modules(root)
    written = {f"{name}.rst": module_page(name, found) for name in found}
    intro = "Every module of the two packages. Names that begin with an underscore are left out."
    return written | {"index.rst": "\n".join([*title("API"), intro, "", *listing(list(PACKAGES), found)])}


def module_page(name: str, found: dict[str, Path]) -> str:
    """The page of a module; of a package with what is in it."""
    below = [other for other in found if other.rpartition(".")[0] == name]
    options = ["   :members:", "   :ignore-module-all:", "   :show-inheritance:", "   :member-order: bysource", ""]
    return "\n".join([*title(name), f".. automodule:: {name}", *options, *(listing(below, found) if below else [])])


def listing(names: list[str], found: dict[str, Path]) -> list[str]:
    """A table of modules, each with what it is about."""
    rows = [line for name in names for line in (f"   * - :doc:`{name}`", f"     - {summary(found[name])}")]
    tree = [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), ""]
    return [".. list-table::", "   :widths: 30 70", "", *rows, "", *tree]


def title(text: str) -> list[str]:
    return [text, "=" * len(text), ""]
