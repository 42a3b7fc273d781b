"""The table of layouts in docs/conversion.md is the one that the converter goes by."""

from __future__ import annotations

from tests.conftest import ROOT
from transfer.convert.layouts import LAYOUTS, Layout

HEAD = ("layout", "taken", "left", "images", "refused because")


def places(where: tuple[str, ...]) -> str:
    return ", ".join(f"`{place or '(top)'}`" for place in where)


def row(layout: Layout) -> tuple[str, ...]:
    images = "" if layout.refused else (layout.facts or {}).get("channel_order", "not told")
    return (layout.name, places(layout.at), places(layout.over), images, layout.refused or "")


def table() -> list[str]:
    """Its lines, to be pasted into the page."""
    rows = [HEAD, ("---",) * len(HEAD), *map(row, LAYOUTS)]
    return ["|" + "|".join(r) + "|" if r[0] == "---" else "| " + " | ".join(r) + " |" for r in rows]


def test_the_page_shows_every_entry_and_place():
    page = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    section = page.split("## Layouts")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == table()
