"""Orders are permutations, the same for all who ask, and divided among processes without an image twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.data.order import GlobalShuffle, ShuffledShards
from pretrain.data.views import TrainingBatches
from pretrain.runtime.seed import derive

COUNTS = np.array([5, 1, 9, 4, 7, 3, 8, 6, 2, 11])  # 56 images
SHARD = np.repeat(np.arange(len(COUNTS)), COUNTS)  # of each image


def naive(epoch: int, seed: int, window: int) -> list[int]:
    """The whole sequence, step by step."""

    def permuted(values: list, *path: int) -> list:
        generator = torch.Generator().manual_seed(derive(seed, *path))
        return [values[i] for i in torch.randperm(len(values), generator=generator)]

    shards = [[i for i in range(len(SHARD)) if SHARD[i] == s] for s in range(len(COUNTS))]
    order, sequence = permuted(shards, epoch), []
    for number, start in enumerate(range(0, len(order), window)):
        sequence += permuted([i for shard in order[start : start + window] for i in shard], epoch, number, 0, 0)
    return sequence


@pytest.mark.parametrize("window", [1, 2, 3, 5, 10, 99])
def test_sequence(window: int) -> None:
    order = ShuffledShards(COUNTS, seed=3, window=window)
    for epoch in (0, 1, 7):
        expected = naive(epoch, 3, window)
        assert sorted(expected) == list(range(56)) and order.images(epoch, 0, 56) == expected
    for first, count in [(50, 6), (0, 1), (13, 30), (55, 1), (20, 0)]:  # back and forth
        assert order.images(7, first, count) == expected[first : first + count]
    assert order.images(0, 0, 56) != order.images(1, 0, 56)
    assert order.images(0, 0, 56) != ShuffledShards(COUNTS, seed=4, window=window).images(0, 0, 56)


def test_a_window_spans_few_shards() -> None:
    sequence = ShuffledShards(COUNTS, seed=0, window=2).images(0, 0, 56)
    shards = [SHARD[i] for i in sequence]
    visits = [s for i, s in enumerate(shards) if s not in shards[:i]]
    for a, b in zip(visits[::2], visits[1::2], strict=True):
        positions = [i for i, s in enumerate(shards) if s in (a, b)]
        assert positions == list(range(positions[0], positions[-1] + 1))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_take_stretches_that_do_not_meet(world_size: int) -> None:
    def batches(rank: int, **kwargs: int) -> TrainingBatches:
        order = ShuffledShards(COUNTS, seed=1, window=3)
        return TrainingBatches(56, 12, 3, 1, rank=rank, world_size=world_size, order=order, **kwargs)

    parts = [list(batches(rank)) for rank in range(world_size)]
    share, length = 12 // world_size, 56 // world_size
    for epoch in range(3):
        expected = naive(epoch, 1, window=3)
        taken = []
        for rank, part in enumerate(parts):
            assert len(part) == 12 and all(len(batch) == share for batch in part)
            stretch = [index for batch in part for e, index in batch if e == epoch]
            assert stretch == expected[rank * length :][: 4 * share]
            taken += stretch
        assert len(set(taken)) == len(taken) == 48
    for start in (1, 4, 7, 11, 12):
        assert [list(batches(rank, start=start)) for rank in range(world_size)] == [part[start:] for part in parts]


def test_global_shuffle_is_the_permutation_of_before() -> None:
    order = GlobalShuffle(50, seed=2)
    for epoch in (0, 3):
        expected = torch.randperm(50, generator=torch.Generator().manual_seed(derive(2, epoch))).tolist()
        assert order.images(epoch, 0, 50) == expected and order.images(epoch, 7, 5) == expected[7:12]
    assert [order.first(3, 12, rank, 4) for rank in range(4)] == [36, 39, 42, 45]
