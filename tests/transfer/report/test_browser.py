"""The page in a real browser: it renders, fits a phone, follows dark mode, and the keyboard reaches all of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.transfer.report import chromium, trees
from tests.transfer.report.test_neighbours import write_trunk
from transfer.report.report import write_report

pytestmark = pytest.mark.skipif(
    chromium.executable() is None, reason=f"none of {', '.join(chromium.NAMES)} is on the PATH"
)

SECTIONS = [
    "results", "versus", "trials", "learning", "classes", "gaps", "precision", "images", "neighbours", "conversion",
    "provenance", "rerun",
]  # fmt: skip
IMAGES = """Promise.all([...document.querySelectorAll('image')].map(async e => {
    const i = new Image(); i.src = e.getAttribute('href'); await i.decode(); return i.naturalWidth}))"""
WIDER = """[...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll > *') && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.tagName + '.' + e.className)"""
BOXES = """[...document.querySelectorAll('svg.chart, svg.picture, svg.strip')].map(s => s.getBoundingClientRect())
    .map(b => [b.left, b.top + scrollY, b.right, b.bottom + scrollY])"""
SPILLED = """[...document.querySelectorAll('svg.chart')].filter(s => [...s.querySelectorAll('text')].some(t => {
    const a = t.getBoundingClientRect(), b = s.closest('.card').getBoundingClientRect();
    return a.left < b.left || a.right > b.right})).map(s => s.getAttribute('aria-label'))"""

MET = """[...document.querySelectorAll('#trials svg, #gaps svg')].filter(s => {
    const b = [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect());
    return b.some((p, i) => b.some((q, j) => i < j && p.left < q.right - 1 && q.left < p.right - 1 &&
        p.top < q.bottom - 4 && q.top < p.bottom - 4))}).map(s => s.getAttribute('aria-label'))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Path:
    config = str(trees.ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")
    pretrain = {"moco": {"config": config, "opts": ["DATA.TRAIN", str(generated / "iconic" / "train")]}}
    file = trees.experiment_file(tmp_path_factory.mktemp("browser"), generated, trials=2, pretrain=pretrain)
    plan = trees.plan(file)
    write_trunk(plan)
    trees.fill(plan)
    return write_report(plan)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    with chromium.tab(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_all_sections_and_all_images_without_an_error(page: Path, tab: chromium.Tab) -> None:
    tab.open(page, 1280)
    assert tab.errors == []
    assert tab.run("[...document.querySelectorAll('main > section')].map(s => s.id)") == SECTIONS
    assert tab.run("[...document.querySelectorAll('main > section')].every(s => s.offsetHeight > 60)")
    links = tab.run(
        "[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.getAttribute('href')).id)"
    )
    assert links == SECTIONS
    widths = tab.run(IMAGES)
    assert len(widths) >= 10 and min(widths) > 0
    assert tab.run("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert page.stat().st_size < 3_000_000


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Path, tab: chromium.Tab, width: int) -> None:
    tab.open(page, width)
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.run("innerWidth") == width and tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(WIDER) == [] and tab.run(SPILLED) == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_shadow_shows_on_which_side_a_table_goes_on(page: Path, tab: chromium.Tab, dark: bool) -> None:
    tab.open(page, 390, dark=dark)
    frames = "[...document.querySelectorAll('.scroll')]"
    wider = tab.run(f"{frames}.findIndex(s => s.scrollWidth > s.clientWidth + 60)")
    whole = tab.run(f"{frames}.findIndex(s => s.scrollWidth == s.clientWidth)")
    assert min(wider, whole) >= 0
    assert _shadows(tab, whole) == (False, False) and _shadows(tab, wider) == (False, True)
    tab.run(f"{frames}[{wider}].scrollLeft = 30")
    assert _shadows(tab, wider) == (True, True)
    tab.run(f"{frames}[{wider}].scrollLeft = 9999")
    assert _shadows(tab, wider) == (True, False)


def _shadows(tab: chromium.Tab, frame: int) -> tuple[bool, bool]:
    """Whether the outermost pixels within a scrolling frame, left and right, are darker than what lies beside it."""
    box = f"document.querySelectorAll('.scroll')[{frame}].getBoundingClientRect()"
    left, right, top, bottom = tab.run(f"(b => [b.left, b.right, b.top + scrollY, b.bottom + scrollY])({box})")
    picture = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("L")).astype(int)
    rows = slice(round(top) + 3, round(bottom) - 3)
    card = np.median(picture[rows, round(left) - 4])
    edges = (np.median(picture[rows, x]) for x in (round(left) + 1, round(right) - 2))
    return tuple(bool(edge < card - 8) for edge in edges)  # type: ignore[return-value]


def test_long_names_stay_within_their_cards(tmp_path: Path, generated: Path, tab: chromium.Tab) -> None:
    long = (
        "MoCo v2 of a set with a really long name, 800 epochs, https://example.org/" + "weights_of_it_" * 8 + "M" * 40
    )
    rows = [{**trees.SUPERVISED, "name": f"supervised {long}"}, {"name": long, "weights": None}]
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2, rows=rows))
    trees.fill(plan)
    page = write_report(plan)
    for width in (390, 1280):
        tab.open(page, width)
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(WIDER) == [] and tab.run(SPILLED) == [] and tab.run(MET) == []
    text = tab.run("document.querySelector('#trials svg').textContent.replace(/\\s+/g, '')")
    assert long.replace(" ", "") in text  # on several lines, none of it cut


def test_an_experiment_that_has_not_begun_has_a_page_too(tmp_path: Path, generated: Path, tab: chromium.Tab) -> None:
    tab.open(write_report(trees.plan(trees.experiment_file(tmp_path, generated))), 390)
    assert tab.errors == [] and tab.run("document.documentElement.scrollWidth") <= 390 and tab.run(WIDER) == []
    assert "0 of 2 rows complete." in tab.run("document.body.innerText")


def test_dark_mode_has_another_background_and_readable_text(page: Path, tab: chromium.Tab) -> None:
    seen = {}
    for dark in (False, True):
        tab.open(page, 1280, dark=dark)
        for selector in ("body", ".card", ".lead"):
            script = f"getComputedStyle(document.querySelector('{selector}'))"
            seen[dark, selector] = tab.run(f"[{script}.backgroundColor, {script}.color]")
    light, dark_body = seen[False, "body"][0], seen[True, "body"][0]
    assert _luminance(light) > 0.8 and _luminance(dark_body) < 0.05
    assert seen[False, ".card"][0] != seen[True, ".card"][0]
    for dark in (False, True):
        for selector in ("body", ".lead"):
            assert _contrast(seen[dark, selector][1], seen[dark, "body"][0]) > 4.5


def test_the_keyboard_reaches_links_tables_and_commands_and_shows_where_it_is(page: Path, tab: chromium.Tab) -> None:
    tab.open(page, 390)
    reached, outlines = [], []
    for _ in range(80):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.tagName + '.' + document.activeElement.className"))
        outlines.append(tab.run("parseFloat(getComputedStyle(document.activeElement).outlineWidth)"))
        if reached[-1].startswith("BODY"):
            break
    stops = [(name, width) for name, width in zip(reached, outlines, strict=True) if not name.startswith("BODY")]
    assert sum(name.startswith("A.") for name, _ in stops) == len(SECTIONS)
    assert sum(name.startswith("DIV.scroll") for name, _ in stops) == tab.run(
        "document.querySelectorAll('.scroll').length"
    )
    assert sum(name.startswith("SUMMARY") for name, _ in stops) == 3  # the converter's facts, and two rows
    assert all(width >= 2 for _, width in stops)


def test_prints_on_white_without_cut_tables(page: Path, tab: chromium.Tab) -> None:
    tab.open(page, 794, dark=True, media="print")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    pdf = base64.b64decode(tab.call("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000


def test_something_is_drawn_in_every_chart(page: Path, tab: chromium.Tab) -> None:
    tab.open(page, 1280)
    picture = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB")).astype(int)
    boxes = tab.run(BOXES)
    assert len(boxes) > 20
    for left, top, right, bottom in boxes:
        part = picture[round(top) : round(bottom), round(left) : round(right)]
        spread = part.max(axis=2) - part.min(axis=2)  # colour, not only grey rules and text
        assert (spread > 40).sum() > 20, (left, top)


def _numbers(colour: str) -> list[float]:
    return [float(v) for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]


def _luminance(colour: str) -> float:
    """Of WCAG, 0 to 1."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in _numbers(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
