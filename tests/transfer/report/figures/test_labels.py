"""Names within figures: lines that fit, and cut names that are there in full."""

from __future__ import annotations

from tests.transfer.report.test_report import Page
from transfer.report.figures.classes import Gap, gaps
from transfer.report.figures.labels import ELLIPSIS, shortened, width, wrapped
from transfer.report.figures.row_plots import Dots, dots


def test_lines_fit_and_lose_no_letter() -> None:
    for words in (
        "MoCo",
        "MoCo v2 of a set with a long name",
        "x" * 90,
        "a " + "W" * 50 + " b",
        "自己教師あり学習" * 4,
        "",
    ):
        for room in (60.0, 150.0, 336.0):
            lines = wrapped(words, room)
            assert all(width(line) <= room for line in lines)
            assert "".join("".join(lines).split()) == "".join(words.split())
    assert wrapped("one two", 336) == ["one two"] and wrapped("", 336) == [""]


def test_what_is_cut_says_so() -> None:
    assert shortened("dog", 170) == "dog"
    for name in ("handcart for transporting goods and other things", "W" * 60):
        cut = shortened(name, 170)
        assert cut.endswith(ELLIPSIS) and width(cut) <= 170 and name.startswith(cut[:-1]) and len(cut) > 8


def test_a_cut_class_keeps_its_name_for_the_pointer() -> None:
    names = [f"handcart for transporting goods & <other> things, number {i}" for i in range(3)]
    shown = gaps([Gap(name, 1.0, (1.0,)) for name in (*names, "dog")], (0, 1), 1.0, "alt", "p")
    page = Page(shown)
    assert len(page.all("title")) == 3 and all(name in page.text for name in names)
    assert page.text.count(ELLIPSIS) == 3


def test_rows_of_several_lines_have_room_of_their_own() -> None:
    """The figure grows by the lines that a name needs more."""
    heights = []
    for name in ("MoCo", "MoCo of a set with a name that is too long for one line, and for a second one as well, too"):
        rows = [Dots(name, i, (80.0, 81.0), 80.5, 0.7, None, "80.5 ± 0.7") for i in range(2)]
        (chart,) = Page(dots(rows, "alt", "p")).all("svg")
        heights.append(float(str(chart["viewbox"]).split()[3]))
    assert heights[0] == 8 + 2 * 44 + 30 and heights[1] > heights[0] + 20
