"""Decides in which order an epoch visits the images, and which part of it a process takes.

Both are pure functions of seed and epoch. A permutation is cut into batches. For image files, it is a permutation of
all images, and every batch is divided among the processes. For shards, each process goes through a stretch of its own,
so that it reads few shards at a time and, except for those at the ends of its stretch, shards that nobody else reads.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from pretrain.runtime.seed import derive


class Order(Protocol):
    """Gives the sequence of images in each epoch."""

    def first(self, batch: int, batch_size: int, rank: int, world_size: int) -> int:
        """Returns where a process's part of a batch begins in the sequence; it is batch_size / world_size long."""

    def images(self, epoch: int, first: int, count: int) -> list[int]:
        """Returns the numbers of the images at `first`, ..., `first + count - 1` of the epoch's sequence."""


class GlobalShuffle:
    """Permutes all `num_images`; the processes take equal parts of each batch, in rank order."""

    def __init__(self, num_images: int, seed: int):
        self.num_images, self.seed = num_images, seed
        self._drawn, self._order = -1, torch.empty(0)

    def first(self, batch: int, batch_size: int, rank: int, world_size: int) -> int:
        return batch * batch_size + rank * (batch_size // world_size)

    def images(self, epoch: int, first: int, count: int) -> list[int]:
        if epoch != self._drawn:
            generator = torch.Generator().manual_seed(derive(self.seed, epoch))
            self._order, self._drawn = torch.randperm(self.num_images, generator=generator), epoch
        return self._order[first : first + count].tolist()


class ShuffledShards:
    """Permutes the shards, cuts them into windows, and permutes the images within each window.

    Each process has a contiguous stretch of the sequence, of equal length, in rank order.

    Args:
        counts: number of images in each shard, none of them 0.
        seed: seed of the run.
        window: shards whose images are permuted together. A process needs 8 bytes of memory per image of a window.
    """

    def __init__(self, counts: np.ndarray, seed: int, window: int):
        self.counts, self.seed, self.window = np.asarray(counts), seed, window
        self.begins = np.cumsum(self.counts) - self.counts  # number of each shard's first image
        self._epoch, self._shards, self._starts = -1, np.empty(0, int), np.empty(0, int)
        self._number, self._images = -1, np.empty(0, int)  # the window drawn last

    def first(self, batch: int, batch_size: int, rank: int, world_size: int) -> int:
        return rank * (int(self.counts.sum()) // world_size) + batch * (batch_size // world_size)

    def images(self, epoch: int, first: int, count: int) -> list[int]:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, epoch))
            self._shards = torch.randperm(len(self.counts), generator=generator).numpy()
            self._epoch, self._number = epoch, -1
            ends = np.cumsum(self.counts[self._shards])
            self._starts = np.concatenate([[0], ends[self.window - 1 : -1 : self.window]])  # of each window
        assert first + count <= self.counts.sum()
        found: list[int] = []
        while len(found) < count:
            at = first + len(found)
            number = int(np.searchsorted(self._starts, at, side="right")) - 1
            within = at - int(self._starts[number])
            found += self._drawn(number)[within : within + count - len(found)].tolist()
        return found

    def _drawn(self, number: int) -> np.ndarray:
        """Returns the images of a window of the current epoch, in order."""
        if number != self._number:
            shards = self._shards[number * self.window : (number + 1) * self.window]
            images = np.concatenate([np.arange(self.begins[s], self.begins[s] + self.counts[s]) for s in shards])
            generator = torch.Generator().manual_seed(derive(self.seed, self._epoch, number, 0, 0))
            self._images = images[torch.randperm(len(images), generator=generator).numpy()]
            self._number = number
        return self._images
