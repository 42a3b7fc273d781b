"""Computes a trunk's features of a labelled set; those of a frozen trunk are kept in memory-mapped files.

    folder/train.features.npy   N x C float32, in the order of the set
    folder/train.labels.npy     N     int64
    folder/train.json           identity of the features; written last: without it the features do not count

Shape shorthand:
    N: images of the set   B: images of a batch over all processes   C: length of a feature
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Sampler

from pretrain.data.augment import OneCrop
from pretrain.data.decode import BadImageError
from pretrain.data.labelled import LabelledImages
from pretrain.data.views import ViewDataset, build_loader
from pretrain.probes.trunk import Trunk
from pretrain.runtime import dist, leftovers
from pretrain.runtime.checkpoint import atomic_write, save_json
from pretrain.runtime.files import open_regular, read_record
from pretrain.runtime.log import progress

VERSION = 1  # of the files; a change of what they mean raises it

View = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Features:
    """Holds features on disk, mapped into memory: a row is read when it is used.

    Attributes:
        features: (N, C) float32, read-only; not normalised.
        labels: (N,) int64.
        classes: the names of the classes.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, index: slice | list[int]) -> Tensor:
        """Returns a copy of some rows in memory: n x C."""
        return torch.from_numpy(np.array(self.features[index]))

    def chunks(self, size: int = 4096) -> Iterator[Tensor]:
        """Yields all rows in order, as copies of up to `size` rows: n x C each."""
        for first in range(0, len(self), size):
            yield self.rows(slice(first, first + size))


class InOrder(Sampler[list[tuple[int, int]]]):
    """Yields this process's (0, index) pairs for one pass over a set in order.

    Every batch is cut into equal parts for the processes, in rank order. If the last batch cannot be divided evenly,
    its last image is repeated, so that the gathered batches, cut to N rows in all, are the set in order.
    """

    seed = 0  # nothing is drawn

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.num_images, self.batch_size, self.rank, self.world_size = num_images, batch_size, rank, world_size

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, self.num_images, self.batch_size):
            end = min(first + self.batch_size, self.num_images)
            share = math.ceil((end - first) / self.world_size)
            begin = first + self.rank * share
            yield [(0, min(index, end - 1)) for index in range(begin, begin + share)]


def forward(
    trunk: Trunk,
    images: LabelledImages,
    view: View,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    name: str = "features",
) -> Iterator[Tensor]:
    """Yields the features of the whole set in order, batch by batch (B x C, the last one shorter), in every process.

    The set is divided among the processes, which must all iterate to the end. No random number is drawn.

    Args:
        trunk: N x 3 x H x W -> N x C.
        view: a transform without randomness; see `labelled.central_view`.
        batch_size: images per batch over all processes.
        num_workers: loader processes of this process.
        name: label of the progress bar.

    Raises:
        BadImageError: an image cannot be read. Evaluation skips none: its score would be that of another set.
    """
    dataset = ViewDataset(images.files, OneCrop(view), seed=0)
    order = InOrder(len(images), batch_size, dist.rank(), dist.world_size())
    loader = build_loader(dataset, order, num_workers, pin_memory=device.type == "cuda")  # type: ignore[arg-type]
    left = len(images)
    with progress(left, name, unit="img", disable=not dist.is_main()) as bar:
        for batch in loader:
            if batch.views is None:
                raise BadImageError(f"{batch.bad[-1]}; remove or replace it")
            share = trunk(batch.views[0].to(device, non_blocking=True, memory_format=memory_format))
            count = min(batch_size, left)
            yield dist.all_gather(share)[:count]
            left -= count
            bar.update(count)


def extract(
    trunk: Trunk,
    images: LabelledImages,
    view: View,
    folder: str | os.PathLike[str],
    name: str,
    *,
    trunk_sha256: str,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    arithmetic: str = "float32",
) -> Features:
    """Writes the set's features to files `folder/name.*`, unless those there are of the same trunk, images and view.

    The main process writes, each file whole or not at all; every process must call, and must see the folder.

    Args:
        trunk_sha256: `fingerprint` of the trunk; with the set's digest, the view and `arithmetic` it decides whether
            existing files can be kept.
        trunk, images, view, batch_size, num_workers, device, memory_format: see `forward`.

    Raises:
        BadImageError: see `forward`.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    identity = {
        "version": VERSION,
        "trunk_sha256": trunk_sha256,
        "images": images.digest(),
        "count": len(images),
        "view": repr(view),
        "arithmetic": arithmetic,
    }
    path = folder / f"{name}.json"
    if dist.is_main():
        leftovers.remove(folder)
    if not dist.broadcast_object(dist.is_main() and _identity(path) == identity and _are_whole(folder, name, images)):
        batches = forward(
            trunk,
            images,
            view,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            memory_format=memory_format,
            name=f"features of {name}",
        )
        if dist.is_main():
            path.unlink(missing_ok=True)  # what it describes is about to be replaced
            _write_rows(folder / f"{name}.features.npy", len(images), batches)
            with atomic_write(folder / f"{name}.labels.npy") as f:
                np.save(f, images.labels.astype(np.int64))
            save_json(identity | {"classes": images.classes}, path)
        else:
            for _ in batches:
                pass
        dist.barrier()
    return load(folder, name)


def load(folder: str | os.PathLike[str], name: str) -> Features:
    """Maps the files `folder/name.*` that `extract` wrote.

    Raises:
        FileNotFoundError: the files do not exist, or are not complete.
        ValueError: the files are of another version.
    """
    folder = Path(folder)
    identity = _identity(folder / f"{name}.json", with_classes=True)
    if identity is None:
        raise FileNotFoundError(f"'{folder}' holds no complete features '{name}'; extract them (again)")
    if identity.get("version") != VERSION:
        raise ValueError(f"features '{name}' in '{folder}' are not of this version; delete them")
    files = [folder / f"{name}.{kind}.npy" for kind in ("features", "labels")]
    for file in files:
        open_regular(file).close()  # what is none is refused before numpy opens it
    features = np.load(files[0], mmap_mode="r", allow_pickle=False)
    return Features(features, np.load(files[1], allow_pickle=False), tuple(identity["classes"]))


def _are_whole(folder: Path, name: str, images: LabelledImages) -> bool:
    """Returns whether the arrays of a set that has been extracted can be read, and belong to the set."""
    try:
        kept = load(folder, name)
        fits = kept.features.ndim == 2 and len(kept.features) == len(images) and kept.features.dtype == np.float32
        return fits and np.array_equal(kept.labels, images.labels) and kept.classes == tuple(images.classes)
    except Exception:  # numpy raises whatever a damaged header makes it raise; features can be computed again
        return False


def _identity(path: Path, with_classes: bool = False) -> dict[str, Any] | None:
    try:
        found = json.loads(read_record(path))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if not with_classes:
        found.pop("classes", None)
    return found


def _write_rows(path: Path, count: int, batches: Iterator[Tensor]) -> None:
    """Writes a .npy file of `count` rows as they come, so that memory holds only one batch."""
    with atomic_write(path) as f:
        written, dim = 0, 0
        for batch in batches:
            if not written:
                dim = batch.shape[1]
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
                np.lib.format.write_array_header_1_0(f, header)
            f.write(batch.cpu().numpy().astype("<f4").tobytes())
            written += len(batch)
        assert written == count and dim
