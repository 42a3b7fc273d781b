"""Yields one or two views of each image, in an order that depends on the seed alone.

Which images make up iteration i, and what is drawn for their views, is a pure function of (seed, i). It depends neither
on the number of workers nor on where a run was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pretrain.data.cache import DecodedImages
from pretrain.data.decode import BadImageError, decode
from pretrain.data.images import Images
from pretrain.data.order import GlobalShuffle, Order
from pretrain.runtime.config import ConfigError
from pretrain.runtime.seed import derive
from pretrain.runtime.workers import check_workers, start_worker

MAX_REPLACEMENTS = 100  # unreadable images in a row after which skipping gives up

Decode = Callable[[bytes, str], Any]  # an image file and its name -> an RGB image
Views = Callable[[Any, int], tuple[Tensor, ...]]  # what a `Decode` gives, and the seed of all draws -> views


class Sample(NamedTuple):
    """Holds the views of one image (3 x H x W each), its number in the set and, if labels are read, its label.

    `views` is None if the image could neither be read nor replaced; `bad` gives the reasons. A replacement has its own
    number and label.
    """

    views: tuple[Tensor, ...] | None
    bad: list[str]
    number: int = -1
    label: int | None = None


class Batch(NamedTuple):
    """Holds the views of N images (N x 3 x H x W each), their numbers (N) and, if the set has labels, their labels (N).

    `views` is None if an image could neither be read nor replaced; `bad` gives the reasons.
    """

    views: tuple[Tensor, ...] | None
    bad: list[str]
    numbers: Tensor | None = None
    labels: Tensor | None = None

    def query_and_key(self) -> tuple[Tensor, Tensor]:
        """Returns the input of a mechanism: the first views, and their keys.

        The keys are the second views if there are any, else the labels if they are read, else the images' numbers.
        """
        assert self.views is not None and self.numbers is not None
        if len(self.views) > 1:
            return self.views[0], self.views[1]
        return self.views[0], self.numbers if self.labels is None else self.labels


class ViewDataset(Dataset[Sample]):
    """Maps (epoch, index) to views, the same whenever and wherever it is asked.

    Args:
        files: the images.
        views: `augment.TwoCrops` or `OneCrop`.
        seed: seed of the run.
        replacements: how many other images to try, at most, for one that cannot be read. Problems are returned rather
            than raised, because an exception that crosses from a loader process arrives as a page of tracebacks.
        decoder: makes what `views` takes: `decode` a PIL image, `decode_array` an array.
        labels: (n,) labels of the images, if they are to be read.
        cache: the images as `decoder` gives them, if they are in memory.
    """

    def __init__(
        self,
        files: Images,
        views: Views,
        seed: int,
        replacements: int = 0,
        decoder: Decode = decode,
        labels: np.ndarray | None = None,
        cache: DecodedImages | None = None,
    ):
        self.files, self.views, self.seed, self.replacements = files, views, seed, replacements
        self.decoder, self.labels, self.cache = decoder, labels, cache

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        bad: list[str] = []
        for attempt in range(1 + self.replacements):
            source = derive(self.seed, epoch, index, attempt) % len(self) if attempt else index
            try:
                image = self._image(source)
            except BadImageError as error:
                bad.append(str(error))
                continue
            label = None if self.labels is None else int(self.labels[source])
            return Sample(self.views(image, derive(self.seed, epoch, index)), bad, source, label)
        return Sample(None, bad)

    def _image(self, index: int) -> Any:
        if self.cache is not None:
            return self.cache[index]
        return self.decoder(self.files.read(index), self.files.name(index))


def collate(samples: list[Sample]) -> Batch:
    """Stacks N samples to a batch; if one of them has no views, the batch holds only the reasons."""
    views = []
    for sample in samples:
        if sample.views is None:
            return Batch(None, sample.bad)
        views.append(sample.views)
    bad = [reason for sample in samples for reason in sample.bad]
    stacked = tuple(default_collate(views))
    labels = [sample.label for sample in samples if sample.label is not None]
    numbers = torch.tensor([sample.number for sample in samples])
    return Batch(stacked, bad, numbers, torch.tensor(labels) if labels else None)


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """Yields this process's (epoch, index) pairs for every iteration from `start` to the end of training.

    Each epoch is a new permutation of the images, cut into global batches (an incomplete last one is dropped); each
    batch is cut into equal parts for the processes.

    Args:
        num_images: images in the set, at least `batch_size`.
        batch_size: images per iteration over all processes, divisible by `world_size`.
        epochs: length of training.
        seed: seed of the run; the permutation depends on it and on the epoch.
        start: number of iterations already done.
        rank, world_size: which part of each batch this process takes.
        iterations: length of training instead of `epochs`, if not 0; the last epoch may then be cut short.
        order: order of the images in each epoch; by default, all are permuted together.

    Raises:
        ConfigError: there are fewer images than one batch.
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
        order: Order | None = None,
    ):
        if num_images < batch_size:
            raise ConfigError(
                f"DATA.TRAIN has {num_images} images, fewer than one batch of SOLVER.BATCH_SIZE {batch_size}; "
                "take a smaller batch or more images"
            )
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.world_size = rank, world_size
        self.order = order or GlobalShuffle(num_images, seed)
        self.per_epoch = num_images // batch_size
        self.iterations = iterations or self.per_epoch * epochs

    def __len__(self) -> int:
        return self.iterations - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.start, self.iterations):
            epoch, batch = divmod(iteration, self.per_epoch)
            first = self.order.first(batch, self.batch_size, self.rank, self.world_size)
            yield [(epoch, index) for index in self.order.images(epoch, first, self.batch_size // self.world_size)]


def build_loader(dataset: ViewDataset, batches: TrainingBatches, num_workers: int, pin_memory: bool) -> DataLoader:
    """Returns a loader for one pass over `batches`, loaded ahead by `num_workers` processes (0: by none).

    The loader has its own generator, so that making it does not move the global one. Its processes ignore the signals
    that ask a run to stop: a scheduler sends them to all, and the training process still needs its batches. On Linux
    they are forked whatever Python's default is, because they then share the set instead of copying it.

    Raises:
        MachineError: the processes cannot share memory.
    """
    check_workers(num_workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(derive(batches.seed, batches.rank)),
        worker_init_fn=start_worker,
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )
