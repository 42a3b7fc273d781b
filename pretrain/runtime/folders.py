"""Decides which folders and files belong to a set of images: nothing hidden; each real folder once, links followed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LITTER = {
    *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}


def is_hidden(path: str) -> bool:
    """Returns whether a path leads through what systems and editors leave behind, which belongs to no data set.

    Such is any part that begins with a dot (`.ipynb_checkpoints`, `._x.jpg`, `.DS_Store`), and `__MACOSX`, `@eaDir`,
    `Thumbs.db` and their like. Pass the part of the path below a set's own folder, which may lie wherever it likes.
    """
    return any((part[:1] == "." and part not in (".", "..")) or part.lower() in _LITTER for part in path.split("/"))


@dataclass(frozen=True)
class Tree:
    """Lists what lies below a folder; paths are relative to it, and sorted.

    Attributes:
        files: the files whose names end as was asked for.
        folders: the folders that were read, "" for the folder itself.
        hidden: folders and files that were left out as hidden (see `is_hidden`); of files, only those that would
            otherwise be in `files`.
        again: links that were left out because their folder is read under another name, or holds this one.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]
    again: tuple[str, ...]

    def notes(self, root: str | os.PathLike[str]) -> tuple[str, ...]:
        """Returns one sentence for each kind of thing that was left out; none if nothing was."""
        return (
            *note_left_out(root, "hidden", self.hidden),
            *note_left_out(root, "linked folders that are read already", self.again),
        )


def note_left_out(source: str | os.PathLike[str], what: str, names: Sequence[str], count: int = 0) -> tuple[str, ...]:
    """Returns the sentence that says what was not read of a source; none if nothing was left out.

    Args:
        count: the number of things left out, if `names` does not give all of them.
    """
    count = count or len(names)
    if not count:
        return ()
    first = ", ".join(_printable(name) for name in names[:3])
    return (f"left out of '{_printable(source)}', {what}: {count} ({first}{', ...' * (count > 3)})",)


def _printable(name: str | os.PathLike[str]) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_tree(root: str | os.PathLike[str], suffixes: tuple[str, ...] = ("",)) -> Tree:
    """Lists the files and folders below a folder, at any depth; no file is opened.

    Links are followed after everything that lies in the folder itself, so that what has a name of its own there is read
    under that name. No folder is read twice, and no folder that holds this one is read.

    Args:
        suffixes: the endings, in lower case, of the file names that are wanted.

    Raises:
        OSError: a folder cannot be read.
    """
    top = Path(root).resolve()
    around = {_identity(parent) for parent in top.parents}
    seen: set[tuple[int, int]] = set()
    files, folders, hidden, again = [], [], [], []
    links = [""]
    while links:
        inside, links = [links[0]], links[1:]
        linked: list[str] = []
        while inside:
            folder = inside.pop()
            place = os.path.join(root, folder)
            identity = _identity(place)
            if identity in seen or identity in around:
                again.append(folder)
                continue
            seen.add(identity)
            folders.append(folder)
            with os.scandir(place) as entries:
                for entry in entries:
                    path = os.path.join(folder, entry.name)
                    is_folder = entry.is_dir()
                    if not is_folder and not entry.name.lower().endswith(suffixes):
                        continue
                    if is_hidden(entry.name):
                        hidden.append(path)
                    elif not is_folder:
                        files.append(path)
                    else:
                        (linked if entry.is_symlink() else inside).append(path)
            inside.sort(reverse=True)
        links = sorted([*links, *linked])
    return Tree(*(tuple(sorted(paths)) for paths in (files, folders, hidden, again)))


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino
