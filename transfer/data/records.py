"""Annotations in one block of memory, for loaders with worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import torch

from transfer.data.spec import Record


class PackedRecords(Sequence[Record]):
    """Records as bytes in one shared tensor; each is unpacked when it is asked for, as a fresh dict.

    As a list they are millions of objects, whose reference counts a worker writes whenever it looks at them, so that
    every worker ends with a copy of them all (COCO's training set: `benchmarks/loader_memory.py`).
    """

    def __init__(self, records: Iterable[Record]):
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = torch.from_numpy(np.cumsum([0, *map(len, packed)]))
        self._bytes = torch.from_numpy(np.frombuffer(bytearray(b"".join(packed)), np.uint8))

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes + self._ends.nbytes

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]  # raises IndexError as a list does
        record: Record = pickle.loads(self._bytes[self._ends[i] : self._ends[i + 1]].numpy().data)
        return record
