"""Images without labels, one or two views of each, in an order that depends on the seed alone.

Which images make up iteration i, and what is drawn for their views, is a pure function of (seed, i): not of the number
of workers, nor of where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.decode import BadImageError, decode
from pretrain.runtime.config import ConfigError
from pretrain.runtime.preempt import STOP_SIGNALS
from pretrain.runtime.seed import derive

MAX_REPLACEMENTS = 100  # unreadable images in a row after which skipping gives up

Views = Callable[[Image.Image], tuple[Tensor, ...]]


@dataclass(frozen=True)
class ImageFiles:
    """Paths of a training set.

    Attributes:
        root: folder that `names` are relative to.
        names: (n,) byte strings. One array, because loader processes would slowly copy a list of a million `str`.
    """

    root: str
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))

    def read(self, index: int) -> bytes:
        """The bytes of an image file.

        Raises:
            BadImageError: it cannot be read.
        """
        path = self.path(index)
        try:
            with open(path, "rb") as f:
                return f.read()
        except OSError as error:
            raise BadImageError(f"cannot read image '{path}' ({error})") from error

    def digest(self) -> str:
        """Hex digest (16 digits) of the names in order: equal wherever the folder lies."""
        return hashlib.sha256(b"\0".join(self.names.tolist())).hexdigest()[:16]


def find_images(source: str | os.PathLike[str]) -> ImageFiles:
    """The images under a folder (any depth, sorted by path), or those named by a text file in its order.

    A list has one path per line, absolute or relative to the list's own folder; empty lines are ignored.

    Raises:
        ConfigError: nothing there, not readable, no image in it, or a folder that holds both `train` and `val`.
    """
    path = Path(os.path.expandvars(os.path.expanduser(os.fspath(source))))
    try:
        if path.is_dir():
            return _walk(path)
        if path.is_file() and path.suffix == ".txt":
            return _read_list(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"DATA.TRAIN '{path}' cannot be read: {error}") from error
    if path.exists():
        raise ConfigError(f"DATA.TRAIN '{path}' is neither a folder nor a .txt list of images")
    raise ConfigError(f"DATA.TRAIN '{path}' does not exist; give a folder of images or a .txt list")


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
        raise ConfigError(f"DATA.TRAIN '{root}' holds no image ({' '.join(IMG_EXTENSIONS)}) at any depth")
    return ImageFiles(str(root), np.array([os.fsencode(name) for name in sorted(names)]))


def _read_list(path: Path) -> ImageFiles:
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ConfigError(f"DATA.TRAIN '{path}' lists no image; write one path per line")
    files = ImageFiles(str(path.parent), np.array([os.fsencode(name) for name in names]))
    if not os.path.isfile(files.path(0)):
        raise ConfigError(f"DATA.TRAIN '{path}': its first entry means '{files.path(0)}', which does not exist")
    return files


class Sample(NamedTuple):
    """Views of one image (3 x H x W each) and its number in the set.

    `views` is None if the image could not be read nor replaced; reasons in `bad`. A replacement has its own number.
    """

    views: tuple[Tensor, ...] | None
    bad: list[str]
    number: int = -1


class Batch(NamedTuple):
    """Views of N images (N x 3 x H x W each) and their numbers (N); None if one could not be read nor replaced."""

    views: tuple[Tensor, ...] | None
    bad: list[str]
    numbers: Tensor | None = None

    def query_and_key(self) -> tuple[Tensor, Tensor]:
        """A mechanism's input: first views, and what leads to their keys: second views or, without, numbers."""
        assert self.views is not None and self.numbers is not None
        return self.views[0], self.views[1] if len(self.views) > 1 else self.numbers


class ViewDataset(Dataset[Sample]):
    """Maps (epoch, index) to views, the same whenever and wherever it is asked.

    Args:
        files: the images.
        views: draws views from an RGB image with torch's CPU generator.
        seed: of the run.
        replacements: how many other images to try, at most, for one that cannot be read. Problems are returned rather
            than raised, because an exception that crosses from a loader process arrives as a page of tracebacks.
    """

    def __init__(self, files: ImageFiles, views: Views, seed: int, replacements: int = 0):
        self.files, self.views, self.seed, self.replacements = files, views, seed, replacements

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        bad: list[str] = []
        for attempt in range(1 + self.replacements):
            source = derive(self.seed, epoch, index, attempt) % len(self) if attempt else index
            try:
                image = decode(self.files.read(source), self.files.path(source))
            except BadImageError as error:
                bad.append(str(error))
                continue
            with _torch_seed(derive(self.seed, epoch, index)):
                return Sample(self.views(image), bad, source)
        return Sample(None, bad)


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; outside, it is as if nothing had been drawn."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def collate(samples: list[Sample]) -> Batch:
    """Stacks N samples."""
    bad = [reason for sample in samples for reason in sample.bad]
    views = [sample.views for sample in samples if sample.views is not None]
    if len(views) < len(samples):
        return Batch(None, bad)
    stacked = tuple(torch.stack(view) for view in zip(*views, strict=True))
    return Batch(stacked, bad, torch.tensor([sample.number for sample in samples]))


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """This process's (epoch, index) pairs for every iteration from `start` to the end of training.

    Each epoch is a new permutation of the images, cut into global batches (an incomplete last one is dropped), each
    of them cut into equal parts for the processes in rank order.

    Args:
        num_images: images in the set, at least `batch_size`.
        batch_size: images per iteration over all processes, divisible by `world_size`.
        epochs: length of training.
        seed: of the run; the permutation depends on it and on the epoch.
        start: iterations already done.
        rank, world_size: which part of each batch.
        iterations: length of training instead of `epochs`, if not 0; the last epoch may then be cut short.

    Raises:
        ConfigError: fewer images than one batch.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        epochs: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        iterations: int = 0,
    ):
        if num_images < batch_size:
            raise ConfigError(
                f"DATA.TRAIN has {num_images} images, fewer than one batch of SOLVER.BATCH_SIZE {batch_size}; "
                "take a smaller batch or more images"
            )
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.start, self.rank, self.share = start, rank, batch_size // world_size
        self.per_epoch = num_images // batch_size
        self.iterations = iterations or self.per_epoch * epochs

    def __len__(self) -> int:
        return self.iterations - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, drawn = torch.empty(0), -1
        for iteration in range(self.start, self.iterations):
            epoch, batch = divmod(iteration, self.per_epoch)
            if epoch != drawn:
                generator = torch.Generator().manual_seed(derive(self.seed, epoch))
                order, drawn = torch.randperm(self.num_images, generator=generator), epoch
            first = batch * self.batch_size + self.rank * self.share
            yield [(epoch, index) for index in order[first : first + self.share].tolist()]


def build_loader(dataset: ViewDataset, batches: TrainingBatches, num_workers: int, pin_memory: bool) -> DataLoader:
    """One pass over `batches`, loaded ahead by `num_workers` processes (0: none).

    The loader has its own generator, so that making it does not move the global one. Its processes ignore the signals
    that ask a run to stop: a scheduler sends them to all, and the training process still needs its batches.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(derive(batches.seed, batches.rank)),
        worker_init_fn=_ignore_stop_signals,
    )


def _ignore_stop_signals(worker: int) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
