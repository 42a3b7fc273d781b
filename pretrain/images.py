"""Where a training set's images lie: a folder, a list, or tar shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.decode import BadImageError
from pretrain.runtime.config import ConfigError
from pretrain.shard_index import is_shard, printable
from pretrain.shards import expand, open_shards


class Images(Protocol):
    """A training set: image files, wherever their bytes lie.

    Attributes:
        notes: what a reader of the result must know.
    """

    @property
    def notes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where an image lies, printable."""

    def read(self, index: int) -> bytes:
        """The bytes of an image file.

        Raises:
            BadImageError: it cannot be read.
        """

    def digest(self) -> str:
        """Hex digest (16 digits) of the names in order: equal wherever the set lies."""


@dataclass(frozen=True)
class ImageFiles:
    """Paths of a training set.

    Attributes:
        root: folder that `names` are relative to.
        names: (n,) byte strings. One array, because loader processes would slowly copy a list of a million `str`.
    """

    root: str
    names: np.ndarray
    notes: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))

    def name(self, index: int) -> str:
        """The path, printable whatever its bytes are."""
        return printable(self.path(index))

    def read(self, index: int) -> bytes:
        """The bytes of an image file.

        Raises:
            BadImageError: it cannot be read.
        """
        try:
            with open(self.path(index), "rb") as f:
                return f.read()
        except OSError as error:
            raise BadImageError(f"cannot read image '{self.name(index)}' ({error.strerror})") from error

    def digest(self) -> str:
        """Hex digest (16 digits) of the names in order: equal wherever the folder lies."""
        return hashlib.sha256(b"\0".join(self.names.tolist())).hexdigest()[:16]


def find_images(source: str | os.PathLike[str], index_dir: str = "", truncate: bool = False, keep: int = 32) -> Images:
    """The images under a folder (any depth, sorted by path), those named by a text file in its order, or in tar shards.

    A list has one path per line, absolute or relative to the list's own folder; empty lines are ignored. Shards are
    one tar file, a pattern of them (`in-{000..146}.tar`, `in-*.tar`), or a list of them.

    Args:
        index_dir, truncate, keep: for shards, see `shards.open_shards`.

    Raises:
        ConfigError: nothing there, not readable, no image in it, or a folder that holds both `train` and `val`; for
            shards, see `shards.open_shards` too.
    """
    path = Path(os.path.expandvars(os.path.expanduser(os.fspath(source))))
    try:
        if path.is_dir():
            return _walk(path)
        if path.is_file() and path.suffix == ".txt":
            names = _read_list(path)
            if not any(map(is_shard, names)):
                return _listed_files(path, names)
            shards = [str(path.parent / name) for name in names]
        elif is_shard(path):
            shards = expand(str(path))
        elif path.exists():
            raise ConfigError(f"DATA.TRAIN '{path}' is neither a folder nor a .txt list of images, nor a .tar shard")
        else:
            raise ConfigError(
                f"DATA.TRAIN '{path}' does not exist; give a folder of images, a .txt list, or .tar shards"
            )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"DATA.TRAIN '{path}' cannot be read: {error}") from error
    return open_shards(shards, index_dir, truncate, keep, source=str(path))


def _walk(root: Path) -> ImageFiles:
    if (root / "train").is_dir() and (root / "val").is_dir():
        raise ConfigError(f"DATA.TRAIN '{root}' holds train and val; give '{root / 'train'}'")

    def fail(error: OSError) -> None:
        raise error

    names = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, files in os.walk(root, onerror=fail, followlinks=True)
        for name in files
        if name.lower().endswith(IMG_EXTENSIONS)
    ]
    if not names:
        hint = f"for shards, give '{root / '*.tar'}'" if any(root.glob("*.tar")) else "check the path"
        raise ConfigError(f"DATA.TRAIN '{root}' holds no image ({' '.join(IMG_EXTENSIONS)}) at any depth; {hint}")
    return ImageFiles(str(root), np.array([os.fsencode(name) for name in sorted(names)]))


def _read_list(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ConfigError(f"DATA.TRAIN '{path}' lists no image; write one path per line")
    return names


def _listed_files(path: Path, names: list[str]) -> ImageFiles:
    files = ImageFiles(str(path.parent), np.array([os.fsencode(name) for name in names]))
    if not os.path.isfile(first := files.path(0)):
        state = "is no file" if os.path.exists(first) else "does not exist"
        raise ConfigError(f"DATA.TRAIN '{path}': its first entry means '{first}', which {state}")
    return files
