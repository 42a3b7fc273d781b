"""Finds images by their stem: the path below their folder without the suffix, by which annotations belong to them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pretrain.runtime.folders import read_tree

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
"""In any case of letters; where one stem has several images, the first of these is taken."""


def stems(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Returns the names of a folder's files without suffixes; those in folders below it as `folder/name`."""
    return {os.path.splitext(name)[0] for name in read_tree(folder, suffixes).files} if folder.is_dir() else set()


def by_stem(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Chooses one image per stem.

    Args:
        names: images by their path below one folder, each with one of `IMAGE_SUFFIXES`.

    Returns:
        Stem -> image, sorted by name, and the images that another one of their stem leaves out.
    """
    found: dict[str, str] = {}
    others = []
    for name in sorted(names, key=lambda name: (IMAGE_SUFFIXES.index(os.path.splitext(name)[1].lower()), name)):
        if found.setdefault(os.path.splitext(name)[0], name) != name:
            others.append(name)
    return dict(sorted(found.items(), key=lambda item: item[1])), sorted(others)
