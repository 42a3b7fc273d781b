"""Makes SVG inside the page: a style, axes in CSS pixels, and elements from matplotlib's figures.

Colours are the page's CSS variables, so that they follow light, dark and print. A row of the experiment has the same
colour in every figure: `--row-0`, `--row-1`, ... (`report.css` defines them).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from transfer.report.markup import N_COLOURS, Markup, tag

# Stand-ins that matplotlib draws with -> what the page makes of them.
TEXT, MUTED, RULE, CARD = "#010101", "#020202", "#030303", "#040404"
_CSS = {TEXT: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", CARD: "var(--card)"}
ROWS = [f"#0a0a{i:02x}" for i in range(N_COLOURS)]
_CSS |= {stand_in: f"var(--row-{i})" for i, stand_in in enumerate(ROWS)}

FONT = 11.5
STYLE: Any = {  # Any: the stubs know each key by name
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": FONT,
    "text.parse_math": False,  # a name may hold dollars
    "text.color": TEXT,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
}


def row_colour(row: int) -> str:
    return ROWS[row % N_COLOURS]


def axes(width: float, height: float, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Makes axes; all sizes are in the SVG's units, which are CSS pixels at the figure's natural size."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    ax = figure.add_axes(box)
    ax.patch.set_visible(False)
    return figure, ax


def inline(figure: Figure, alt: str, prefix: str, full: Mapping[str, str] | None = None) -> Markup:
    """Turns the figure into an <svg> element for HTML: no prologue, the page's font and colours, ids of its own.

    Args:
        full: gid of an artist -> its full words, which show when a pointer rests on it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)
    for gid, words in (full or {}).items():
        body = body.replace(f'<g id="{gid}">', f'<g id="{gid}">{tag("title", words)}')
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    for stand_in, css in _CSS.items():
        body = body.replace(stand_in, css)
    body = re.sub(r"\n\s*", "\n", body)
    return tag("svg", Markup(body.strip()), viewBox=view[1], role="img", aria_label=alt, class_="chart")
