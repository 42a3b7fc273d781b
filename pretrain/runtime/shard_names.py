"""Finds the tar files that a name with ranges of numbers or wildcards stands for."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator

from pretrain.runtime.config import ConfigError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str) -> list[str]:
    """Returns the files that a path stands for, in its order; it may hold patterns with `{000..146}` and `*`.

    Raises:
        ConfigError: a file does not exist, or nothing matches the pattern.
    """
    return [pattern] if os.path.exists(pattern) else list(_expand(pattern))


def _expand(pattern: str) -> Iterator[str]:
    pieces = _RANGE.split(pattern)  # text, first, last, text, first, last, ..., text
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        if int(first) > int(last):
            raise ConfigError(f"DATA.TRAIN '{pattern}': {{{first}..{last}}} goes backwards; write {{{last}..{first}}}")
    numbers = itertools.product(*map(_numbers, pieces[1::3], pieces[2::3])) if len(pieces) > 1 else [()]
    for chosen in numbers:
        path = pieces[0] + "".join(map("".join, zip(chosen, pieces[3::3], strict=True)))
        if glob.has_magic(path) and not os.path.exists(path):
            found = sorted(glob.glob(path))
            if not found:
                raise ConfigError(f"DATA.TRAIN '{pattern}': nothing fits '{path}'; check the folder and the pattern")
            yield from found
        elif os.path.exists(path):
            yield path
        elif path == pattern:
            raise ConfigError(f"DATA.TRAIN '{pattern}' does not exist; give a folder of images, a .txt list or shards")
        else:
            raise ConfigError(f"DATA.TRAIN '{pattern}': shard '{path}' does not exist; copy it, or change the pattern")


def _numbers(first: str, last: str) -> list[str]:
    """Returns the numbers first..last as text, with leading zeros if one of the two has some."""
    padded = any(len(text) > 1 and text[0] == "0" for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    if int(last) - int(first) >= 10**7:
        raise ConfigError(f"DATA.TRAIN: {{{first}..{last}}} means more than ten million shards; check the pattern")
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
