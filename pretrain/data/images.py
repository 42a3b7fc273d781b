"""Finds the images of a training set in a folder, a list, or tar shards."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.data.decode import BadImageError
from pretrain.data.shard_index import is_shard, printable
from pretrain.data.shards import open_shards
from pretrain.runtime import shard_names
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import read_regular
from pretrain.runtime.folders import is_hidden, note_left_out, read_tree

LOG = logging.getLogger(__name__)


class Images(Protocol):
    """A training set: image files, wherever their bytes are stored.

    Attributes:
        notes: remarks that a reader of the result must know.
    """

    @property
    def notes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Returns where an image is stored, in printable form."""

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image file.

        Raises:
            BadImageError: it cannot be read.
        """

    def digest(self) -> str:
        """Returns a hex digest (16 digits) of the names in order, which is the same wherever the set is stored."""


@dataclass(frozen=True)
class ImageFiles:
    """Holds the paths of a training set.

    Attributes:
        root: the folder that `names` are relative to.
        names: (n,) byte strings, in one array, because loader processes would slowly copy a list of a million `str`.
        notes: see `Images`; they name what was left out, which is in the log already.
    """

    root: str
    names: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))

    def name(self, index: int) -> str:
        """Returns the path, in printable form whatever its bytes are."""
        return printable(self.path(index))

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image file.

        Raises:
            BadImageError: it cannot be read.
        """
        try:
            return read_regular(self.path(index))
        except OSError as error:
            raise BadImageError(f"cannot read image '{self.name(index)}' ({error.strerror})") from error

    def digest(self) -> str:
        """Returns a hex digest (16 digits) of the names in order, which is the same wherever the folder lies."""
        return hashlib.sha256(b"\0".join(self.names.tolist())).hexdigest()[:16]


def find_images(
    source: str | os.PathLike[str],
    index_dir: str = "",
    truncate: bool = False,
    keep: int = 32,
    key: str = "DATA.TRAIN",
) -> Images:
    """Finds the images in a folder (at any depth, sorted by path), in a text file (in its order), or in tar shards.

    A list has one path per line, absolute or relative to the list's own folder; empty lines are ignored. Shards are
    one tar file, a pattern of them (`in-{000..146}.tar`, `in-*.tar`), or a list of them. Hidden files are not read, and
    no folder is read twice (`runtime.folders`); what was left out for these reasons is in the notes and in the log.

    Args:
        index_dir, truncate, keep: for shards, see `shards.open_shards`.
        key: the config key or option that gave the source, for errors.

    Raises:
        ConfigError: the source does not exist, cannot be read, holds no image, or is a folder that holds both `train`
            and `val`; for shards, see `shards.open_shards` too.
    """
    path = Path(os.path.expandvars(os.path.expanduser(os.fspath(source))))
    notes: tuple[str, ...] = ()
    try:
        if path.is_dir():
            return _walk(path, key)
        if path.is_file() and path.suffix.lower() == ".txt":
            names, notes = _read_list(path, key)
            if not any(map(is_shard, names)):
                return _listed_files(path, names, notes, key)
            shards = [str(path.parent / name) for name in names]
        elif is_shard(path):
            shards = shard_names.expand(str(path))
        elif path.exists():
            raise ConfigError(f"{key} '{path}' is neither a folder nor a .txt list of images, nor a .tar shard")
        else:
            raise ConfigError(f"{key} '{path}' does not exist; give a folder of images, a .txt list, or .tar shards")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key} '{path}' cannot be read: it is no UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{key} '{path}' cannot be read: {error}") from error
    return open_shards(shards, index_dir, truncate, keep, str(path), notes)


def _walk(root: Path, key: str) -> ImageFiles:
    if (root / "train").is_dir() and (root / "val").is_dir():
        raise ConfigError(f"{key} '{root}' holds train and val; give '{root / 'train'}'")

    tree = read_tree(root, IMG_EXTENSIONS)
    if not tree.files:
        hint = f"for shards, give '{root / '*.tar'}'" if any(root.glob("*.tar")) else "check the path"
        kept_out = "".join(f"; {note}" for note in tree.notes(root))
        raise ConfigError(f"{key} '{root}' holds no image ({' '.join(IMG_EXTENSIONS)}) at any depth; {hint}{kept_out}")
    return image_files(root, tree.files, tree.notes(root))


def image_files(root: Path, names: Sequence[str], notes: Sequence[str] = ()) -> ImageFiles:
    """Returns the files below `root` in the order of `names`; logs the notes."""
    for note in notes:
        LOG.warning(note)
    return ImageFiles(str(root), np.array([os.fsencode(name) for name in names]), tuple(notes))


def _read_list(path: Path, key: str) -> tuple[list[str], tuple[str, ...]]:
    """Returns the names in a list, and notes on hidden ones, which are left out.

    A name is hidden if it has a hidden part below the folder that all names share.
    """
    with path.open(encoding="utf-8-sig") as f:
        names = [line.strip() for line in f if line.strip()]
    if not names:
        raise ConfigError(f"{key} '{path}' lists no image; write one path per line")
    shared = len(os.path.dirname(os.path.commonprefix(names)))
    hidden = [name for name in names if is_hidden(name[shared:])]
    if len(hidden) == len(names):
        raise ConfigError(f"{key} '{path}' lists nothing but hidden files, such as '{names[0]}'; list others")
    return [name for name in names if not is_hidden(name[shared:])], note_left_out(path, "hidden", hidden)


def _listed_files(path: Path, names: list[str], notes: Sequence[str], key: str) -> ImageFiles:
    files = image_files(path.parent, names, notes)
    if not os.path.isfile(first := files.path(0)):
        state = "is no file" if os.path.exists(first) else "does not exist"
        raise ConfigError(f"{key} '{path}': its first entry means '{first}', which {state}")
    return files
