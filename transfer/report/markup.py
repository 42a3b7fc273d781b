"""Makes elements of the page as strings; children are escaped unless they are already markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.runtime.wording import visible

N_COLOURS = 8  # `--row-0` to `--row-7` in report.css; a row of the experiment keeps its colour throughout the page


class Markup(str):
    """Marks text that is HTML and goes into a page as it is."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Returns `<name attribute="...">children</name>`. Children are escaped unless they are Markup; None is left out.

    Args:
        attributes: a trailing underscore is dropped (`class_`), others become hyphens (`aria_label`); None or False is
            left out, True is the bare attribute.
    """
    words = [name]
    for key, value in attributes.items():
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escaped(str(value), quote=True)}"')
    return Markup(f"<{' '.join(words)}>{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Markup:
    """Joins the children, each escaped unless it is Markup."""
    parts = [c if isinstance(c, Markup) else escaped(str(c)) for c in children if c is not None]
    return Markup(between.join(parts))


def escaped(text: str, quote: bool = False) -> str:
    """Escapes text for HTML, and writes out characters that no reader would see."""
    return html.escape(visible(text), quote)


def css_colour(row: int) -> str:
    return f"var(--row-{row % N_COLOURS})"


def section(name: str, title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title), *children, id=name, aria_label=title)


def named(row: int, name: str) -> Markup:
    """Returns a row's name with its colour, which no line break can separate."""
    swatch = tag("span", class_="swatch", style=f"--colour: {css_colour(row)}")
    return tag("span", swatch, tag("span", name), class_="named")


def prefixed(element: Markup, prefix: str) -> Markup:
    """Puts `prefix` before all of an element's ids and the references to them, so that a page can hold it twice."""
    names = re.compile(r'(\bid="|="#|url\(#)(?=[^")])')
    return Markup(re.sub(r"<[^>]*>", lambda found: names.sub(rf"\g<1>{prefix}", found[0]), element))


def scroll(element: Markup, label: str) -> Markup:
    """Puts an element that may be wider than the page into a scrolling frame, which the keyboard reaches."""
    return tag("div", element, class_="scroll", tabindex="0", role="region", aria_label=label)


def fact(value: Any) -> str:
    """Returns a JSON value as a reader would write it, and file names without their folders."""
    if value is None:
        return "not stated"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(fact, value))
    return Path(value).name if isinstance(value, str) and value.startswith("/") else str(value)
