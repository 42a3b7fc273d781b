"""Reads single images from tar files ("shards", WebDataset's layout) without unpacking them; labels are not read."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pretrain.data.decode import BadImageError
from pretrain.data.shard_index import ShardError, ShardIndex, Summary, index_file, load, printable, summarise
from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import progress

LOG = logging.getLogger(__name__)

MAX_OPEN = 256  # shards whose file and index a process keeps open


class Shards:
    """Holds the images of tar files, numbered consecutively in the order of the files.

    A process keeps only counts; the index of a shard is loaded when an image of it is read, and the least recently used
    one is dropped. The object may be pickled, and used after a fork.

    Args:
        paths: the tar files.
        index_dir: see `shard_index.index_file`.
        summaries: the summaries of these files.
        notes: remarks that a reader of the result must know.
        keep: how many indices are kept in memory.
    """

    def __init__(
        self, paths: Sequence[str], index_dir: str, summaries: Sequence[Summary], notes: Sequence[str], keep: int
    ):
        self.paths, self.index_dir, self.notes, self.keep = list(paths), index_dir, list(notes), keep
        self.counts = np.array([summary.images for summary in summaries])  # images in each shard
        self._ends = np.cumsum(self.counts)
        lines = [f"{os.path.basename(p)}\0{s.digest}\n" for p, s in zip(paths, summaries, strict=True)]
        self._digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._open: dict[int, _OpenShard] = {}  # the most recently used last

    def __len__(self) -> int:
        return int(self._ends[-1])

    def digest(self) -> str:
        """Returns a hex digest (16 digits) of the names of shards and images in order, wherever the folder lies."""
        return self._digest

    def name(self, index: int) -> str:
        """Returns `<shard>/<member>`, in printable form."""
        number, within = self._locate(index)
        return f"{printable(self.paths[number])}/{printable(self._shard(number).index.names[within])}"

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image file.

        Raises:
            BadImageError: it cannot be read.
        """
        number, within = self._locate(index)
        shard = self._shard(number)
        try:
            return shard.read(within)
        except OSError as error:
            raise BadImageError(f"cannot read image '{self.name(index)}' ({error})") from error

    def _locate(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, int(index - self._ends[number] + self.counts[number])

    def _shard(self, number: int) -> _OpenShard:
        shard = self._open.pop(number, None)
        if shard is None:
            path = self.paths[number]
            index = load(path, index_file(path, self.index_dir))
            if index is None or len(index.names) != self.counts[number]:
                name = printable(path)
                raise BadImageError(f"shard '{name}' or its index has changed since the run began; start the run again")
            shard = _OpenShard(path, index)
        self._open[number] = shard
        while len(self._open) > self.keep:
            del self._open[next(iter(self._open))]
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class _OpenShard:
    """Holds a file descriptor, closed when nobody refers to it any more, and the index of the file."""

    def __init__(self, path: str, index: ShardIndex):
        self.index, self._fd = index, -1
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise BadImageError(f"cannot read shard '{printable(path)}' ({error.strerror})") from error

    def read(self, within: int) -> bytes:
        size = int(self.index.sizes[within])
        data = os.pread(self._fd, size, int(self.index.offsets[within]))  # does not move a position: forks may share
        if len(data) < size:
            raise OSError(f"{len(data)} of {size} bytes are there")
        return data

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def open_shards(
    paths: Sequence[str],
    index_dir: str = "",
    truncate: bool = False,
    keep: int = 32,
    source: str = "",
    notes: Sequence[str] = (),
) -> Shards:
    """Opens shards, and makes the indices that are missing or outdated.

    Every process of a run goes through all shards, each but the first in an order of its own, and makes the indices
    that it finds missing. With a shared file system they divide the work; without one, every machine still gets its
    indices.

    Args:
        index_dir: folder of the indices; "" puts them beside the shards.
        truncate: whether to use the whole images of a damaged shard instead of refusing it.
        keep: see `Shards`.
        source: what gave the paths, for errors.
        notes: notes on the paths that are known already, for the result and the log.

    Raises:
        ConfigError: shards are named twice, missing, damaged, without images, or otherwise unusable; up to three are
            named.
    """
    index_dir = os.path.expandvars(os.path.expanduser(index_dir))
    places = [os.path.realpath(path) for path in paths]
    if len(set(places)) < len(places):
        twice = next(path for i, path in enumerate(places) if path in places[:i])
        raise ConfigError(f"DATA.TRAIN '{source}' names the shard '{twice}' twice; name it once")
    summaries: dict[int, Summary] = {}
    problems: dict[int, str] = {}
    order = np.random.default_rng(dist.rank()).permutation(len(paths)).tolist() if dist.rank() else range(len(paths))
    with progress(len(paths), "indexing shards", unit="shard", disable=not dist.is_main()) as bar:
        for number in order:
            try:
                summaries[number] = summarise(paths[number], index_file(paths[number], index_dir))
                if problem := _problem(paths[number], summaries[number], truncate):
                    problems[number] = problem
            except ShardError as error:
                problems[number] = str(error)
            bar.update()
    if problems:
        first = [problems[number] for number in sorted(problems)]
        more = f"; and {len(first) - 3} more shards like these" if len(first) > 3 else ""
        raise ConfigError(f"DATA.TRAIN: {'; '.join(first[:3])}{more}")
    damaged = [
        f"shard '{os.path.basename(paths[number])}' is damaged ({summaries[number].damage}): its "
        f"{summaries[number].images} whole images are used (DATA.ON_BAD_SHARD truncate)"
        for number in range(len(paths))
        if summaries[number].damage
    ]
    if damaged:
        damaged.append(f"damaged shards used in part: {len(damaged)} of {len(paths)}")
    notes = [*notes, *damaged]
    if hiding := [path for number, path in enumerate(paths) if summaries[number].hidden]:
        count = sum(summary.hidden for summary in summaries.values())
        notes.append(f"left out of {len(hiding)} shards, hidden images: {count} (first in '{printable(hiding[0])}')")
    for note in notes:
        LOG.warning(note)
    return Shards(paths, index_dir, [summaries[number] for number in range(len(paths))], notes, min(keep, MAX_OPEN))


def _problem(path: str, summary: Summary, truncate: bool) -> str:
    if summary.images and (truncate or not summary.damage):
        return ""
    if not summary.damage:
        besides = f" but {summary.hidden} hidden ones" if summary.hidden else ""
        return f"shard '{path}' holds no image{besides}; write it again, or leave it out"
    rest = f", or set DATA.ON_BAD_SHARD truncate to use those {summary.images}" if summary.images else ""
    return f"shard '{path}' is damaged after {summary.images} whole images ({summary.damage}); copy it again{rest}"
