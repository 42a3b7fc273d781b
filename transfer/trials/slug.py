"""Names as folders: what people call a row, a column or a pre-training, as one path component that is safe."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from pretrain.runtime.config import ConfigError

LONGEST = 80  # bytes; file systems take 255, and suffixes follow


def slug(name: str) -> str:
    """Letters and digits of any script in lower case, words joined by hyphens: `MoCo <v2>` is `moco-v2`.

    A name without any becomes a digest of it; one that is too long is cut, with a digest at its end.
    """
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return _bounded("-".join(words), name)


def folder(name: str) -> str:
    """A name that is a safe path component already stays as it is (`moco_v2`, `R50w2x`), any other becomes a slug."""
    return name if re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}", name) else slug(name)


def check_unique(names: Iterable[tuple[str, str]]) -> None:
    """Raises ConfigError if two of the (what it is called, its folder) would share a folder, on any file system."""
    seen: dict[str, str] = {}
    for what, path in names:
        if (other := seen.setdefault(path.casefold(), what)) != what:
            raise ConfigError(f"{other} and {what} would share the folder '{path}'; give them names that differ more")


def _bounded(text: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if not text:
        return f"name-{digest}"
    if len(text.encode()) <= LONGEST:
        return text
    return text.encode()[: LONGEST - 9].decode("utf-8", "ignore").rstrip("-") + "-" + digest
