"""What Sphinx is told; `docs/site/build.py` lays the pages out and calls it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

project = "moco-transfer"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
default_role = "code"
myst_heading_anchors = 6
autodoc_mock_imports = [name for name in ("detectron2", "densepose", "submitit") if not importlib.util.find_spec(name)]
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
html_theme = "pydata_sphinx_theme"
html_title = "moco-transfer"
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_depth": 2, "show_toc_level": 2, "navigation_with_keys": False}

_CODE = re.compile(r"(``.*?``|`[^`]*`|https?://\S+)")


def from_plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring, which here is plain text with code in single backticks.

    Stars, bars and final underscores stay what they are, a code span may have an ending (`Map`s), and what a module
    indents is shown as it is.
    """
    if what == "module":
        lines[:] = literal(lines)
    for i, line in enumerate(lines):
        if what == "module" and line.startswith("    "):
            continue
        parts = _CODE.split(line)
        parts[::2] = [re.sub(r"(?<!\\)(\*|\|)|(?<=\w)(?<!\\)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
        endings = zip(parts[1::2], parts[2::2], strict=True)
        parts[1::2] = [code + r"\ " if re.match(r"\w", after) else code for code, after in endings]
        lines[i] = "".join(parts)


def literal(lines: list[str]) -> list[str]:
    """The lines with every indented run of them as a literal block."""
    found, within = list[str](), False
    for line in lines:
        indented = line.startswith("    ") or (within and not line.strip())
        if indented and not within:
            found += ["", "::", ""]
        if within and not indented:
            found.append("")
        within = indented
        found.append(line)
    return found


def says_nothing(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out classes whose `__init__` a decorator of a missing Detectron2 has taken, and a named tuple's fields.

    Of the former nothing is known; the latter are described with their class, and their own text is "Alias for field".
    """
    unknown = hasattr(getattr(obj, "__init__", None), "__sphinx_mock__")
    return True if unknown or type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", says_nothing)
    app.connect("autodoc-process-docstring", from_plain_text, priority=900)  # behind napoleon
