"""Finds where the images of one tar file lie in it: reads its headers once, and keeps the result in a small file."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.files import open_regular
from pretrain.runtime.folders import is_hidden

SUFFIX = ".idx"
_VERSION = 2
_TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zstd?|lz4|z))?|tgz|tbz2?|txz)$")
_BLOCK = 512  # bytes that tar counts in
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ShardError(ExpectedError, RuntimeError):
    """A tar file that cannot be used, or whose index cannot be kept; the message names the file and the remedy."""


class Summary(NamedTuple):
    """Holds what a run must know of a shard before it reads from it.

    Attributes:
        images: the number of images.
        digest: 16 hex digits, the digest of their names.
        damage: what is wrong behind the last image, "" if nothing is.
        hidden: the number of images that were left out, see `runtime.folders.is_hidden`.
    """

    images: int
    digest: str
    damage: str
    hidden: int


@dataclass(frozen=True)
class ShardIndex:
    """Holds the places of the n images of a tar file, in its order.

    Attributes:
        names: (n,) byte strings, the names of members.
        offsets, sizes: (n,) int64, in bytes.
        damage, hidden: see `Summary`.
        stamp: (3,) int64: version of this layout; size and mtime (ns) of the tar file that was read.
    """

    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    damage: str
    hidden: int
    stamp: np.ndarray

    def summary(self) -> Summary:
        digest = hashlib.sha256(b"\0".join(self.names.tolist())).hexdigest()[:16]
        return Summary(len(self.names), digest, self.damage, self.hidden)


def index_file(shard: str, index_dir: str) -> str:
    """Returns the path of a shard's index: beside it or in `index_dir`, there named after the shard's whole path."""
    if not index_dir:
        return shard + SUFFIX
    place = hashlib.sha256(os.fsencode(os.path.abspath(shard))).hexdigest()[:16]
    return os.path.join(index_dir, f"{place}-{os.path.basename(shard)}{SUFFIX}")


def summarise(shard: str, file: str) -> Summary:
    """Returns what the index `file` says about a shard, and writes it first unless it fits the shard as it is now.

    Processes may do this at the same time: they write the same bytes, and each file appears as a whole.

    Raises:
        ShardError: see `scan`; also if the index cannot be written.
    """
    if (known := _read(shard, file, "summary")) is not None:
        images, digest, damage, hidden = known[0].tolist()
        return Summary(int(images), digest, damage, int(hidden))
    index = scan(shard)
    summary = index.summary()
    try:
        with atomic_write(file) as f:
            words = np.array([str(value) for value in summary])
            np.savez(f, names=index.names, offsets=index.offsets, sizes=index.sizes, stamp=index.stamp, summary=words)
    except OSError as error:
        raise ShardError(
            f"the index '{file}' of a shard cannot be written ({error.strerror}); set DATA.INDEX_DIR to a folder where "
            "indices can be kept"
        ) from error
    return summary


def load(shard: str, file: str) -> ShardIndex | None:
    """Returns the index in `file`, or None if there is none of the shard's present state."""
    arrays = _read(shard, file, "names", "offsets", "sizes", "summary", "stamp")
    if arrays is None:
        return None
    names, offsets, sizes, summary, stamp = arrays
    return ShardIndex(names, offsets, sizes, str(summary[2]), int(summary[3]), stamp)


def _read(shard: str, file: str, *arrays: str) -> list[np.ndarray] | None:
    try:
        with open_regular(file) as f, np.load(f, allow_pickle=False) as saved:  # an array is read when it is asked for
            return [saved[name] for name in arrays] if np.array_equal(saved["stamp"], _stamp(os.stat(shard))) else None
    except Exception:  # whatever is wrong with an index: it can be built again
        return None


def _stamp(stat: os.stat_result) -> np.ndarray:
    return np.array([_VERSION, stat.st_size, stat.st_mtime_ns])


def scan(shard: str) -> ShardIndex:
    """Reads the headers of a tar file, leaving out members other than images (labels, captions) and hidden ones.

    A file that ends too early, or goes on with something else, gives an index with `damage` and the whole images before
    it.

    Raises:
        ShardError: the file cannot be read, is no tar file, is compressed, or has an image that is a link, sparse, or
            there twice.
    """
    names: list[bytes] = []
    places: list[tuple[int, int]] = []
    hidden = 0
    try:
        with open_regular(shard) as f:
            stat, damage = os.fstat(f.fileno()), ""
            try:
                for member in _members(f, shard):
                    if member.offset_data + member.size > stat.st_size:
                        damage = f"the file ends inside '{printable(member.name)}'"
                        break
                    if member.isdir() or not member.name.lower().endswith(IMG_EXTENSIONS):
                        continue
                    if is_hidden(member.name):
                        hidden += 1
                    else:
                        _check_plain(member, shard)
                        names.append(member.name.encode("utf-8", "surrogateescape"))
                        places.append((member.offset_data, member.size))
            except (tarfile.TarError, ValueError, OverflowError) as error:
                damage = str(error)
    except OSError as error:
        raise ShardError(f"shard '{shard}' cannot be read: {error.strerror}") from error
    if len(set(names)) < len(names):
        twice = printable(Counter(names).most_common(1)[0][0])
        raise ShardError(f"shard '{shard}' holds '{twice}' more than once; write it again with every image once")
    offsets, sizes = np.array(places, dtype=np.int64).reshape(-1, 2).T.copy()
    return ShardIndex(np.array(names, dtype=bytes), offsets, sizes, damage, hidden, _stamp(stat))


def _members(f: IO[bytes], shard: str) -> Iterator[tarfile.TarInfo]:
    """Yields the members; afterwards raises TarError unless they are followed by tar's end mark and by nothing else."""
    head = f.read(_BLOCK)
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise ShardError(f"shard '{shard}' is compressed ({kind}), so no image can be read alone; decompress it")
    f.seek(0)
    try:
        tar = tarfile.open(fileobj=f, mode="r:", encoding="utf-8")
    except tarfile.TarError as error:
        raise ShardError(f"shard '{shard}' is no tar file ({error}); copy or write it again") from error
    while tar.offset and (member := tar.next()) is not None:  # 0: an empty one, where Python 3.10 seeks to before it
        tar.members = []  # type: ignore[attr-defined]  # or they would all be kept
        yield member
    f.seek(tar.offset)
    block = f.read(_BLOCK)
    if len(block) < _BLOCK:
        raise tarfile.ReadError("the file ends without tar's end mark")
    if any(block):
        raise tarfile.ReadError(f"no valid header at byte {tar.offset}")
    while block := f.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"more data behind tar's end mark at byte {tar.offset}")


def _check_plain(member: tarfile.TarInfo, shard: str) -> None:
    if not member.isreg() or member.issparse():
        kind = "sparse" if member.issparse() else "no regular file"
        raise ShardError(
            f"shard '{shard}': '{printable(member.name)}' is {kind}; write it again with plain copies of the images"
        )


def is_shard(name: str | Path) -> bool:
    """Returns whether a file name is that of a tar file, including compressed ones (which `scan` refuses)."""
    return _TAR.search(os.fspath(name).lower()) is not None


def printable(name: str | bytes) -> str:
    """Returns a file name for a message: bytes that are not UTF-8 appear as in `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
