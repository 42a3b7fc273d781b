"""Makes safe path components from the names that people give to rows, data sets and classes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.wording import visible

LONGEST = 80  # bytes; file systems take 255, and suffixes follow


def slug(name: str) -> str:
    """Returns a name as words of lower-case letters and digits, joined by hyphens: `MoCo <v2>` is `moco-v2`.

    The letters and digits may be of any script. A name without any becomes a digest of it; a name that is too long is
    cut, with a digest at its end.
    """
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return _bounded("-".join(words), name)


def folder(name: str) -> str:
    """Returns a safe path component as it is (`moco_v2`, `R50w2x`), and the slug of any other name."""
    return name if re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}", name) else slug(name)


def part(name: str) -> str:
    """Returns a name for use in a file's name: as it is if it is safe there, else its slug and a digest.

    Different names have different parts, though some differ in upper and lower case alone; see `parts`.
    """
    plain = not re.search(r'[/\\:*?"<>|\n\t]', name) and visible(name) == name and name.strip(" .") == name
    return name if name and plain and len(name.encode()) <= 2 * LONGEST else f"{slug(name)[:LONGEST]}-{_digest(name)}"


def parts(names: Sequence[str]) -> list[str]:
    """Returns each name's `part`, with a digest at its end if some file system would take it for another one."""
    found = [part(name) for name in names]
    alike = Counter(map(_alike, found))
    return [
        f"{text}-{_digest(name)}" if alike[_alike(text)] > 1 else text for text, name in zip(found, names, strict=True)
    ]


def check_unique(names: Iterable[tuple[str, str]]) -> None:
    """Raises ConfigError if two of the pairs (name, folder) would share a folder, on any file system."""
    seen: dict[str, str] = {}
    for what, path in names:
        if (other := seen.setdefault(_alike(path), what)) != what:
            raise ConfigError(f"{other} and {what} would share the folder '{path}'; give them names that differ more")


def _alike(path: str) -> str:
    """Returns equal text for names that some file system takes for one: other capitals, other Unicode accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _bounded(text: str, name: str) -> str:
    digest = _digest(name)
    if not text:
        return f"name-{digest}"
    if len(text.encode()) <= LONGEST:
        return text
    return text.encode()[: LONGEST - 9].decode("utf-8", "ignore").rstrip("-") + "-" + digest
