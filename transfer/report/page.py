"""Makes the frame of every page: one file with its style inside, which opens from disk."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from transfer.report.markup import Markup, escaped


def page(title: str, header: Markup, main: Markup) -> str:
    """Returns the whole page as HTML."""
    here = files("transfer.report")
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escaped(title),
        css=(here / "report.css").read_text(encoding="utf-8").strip(),
        header=header,
        main=main,
    )
