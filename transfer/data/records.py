"""Packs annotations into one block of memory, for loaders with worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import torch

from transfer.data.spec import Record


class PackedRecords(Sequence[Record]):
    """Holds records as bytes in one shared tensor; each access unpacks one as a fresh dict.

    A list of records is millions of objects, whose reference counts a worker writes whenever it reads them, so that
    every worker ends with a copy of them all (for COCO's training set see `benchmarks/loader_memory.py`).
    """

    def __init__(self, records: Iterable[Record]):
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = torch.from_numpy(np.cumsum([0, *map(len, packed)]))
        self._bytes = torch.from_numpy(np.frombuffer(bytearray(b"".join(packed)), np.uint8))

    @classmethod
    def joined(cls, parts: Sequence[PackedRecords]) -> PackedRecords:
        """Returns the records of all parts, one after the other, without unpacking them."""
        if len(parts) == 1:
            return parts[0]
        lengths = [np.diff(part._ends.numpy()) for part in parts]
        whole = cls(())
        whole._ends = torch.from_numpy(np.cumsum([0, *np.concatenate(lengths).tolist()]))
        whole._bytes = torch.cat([part._bytes for part in parts])
        return whole

    def select(self, indices: Sequence[int]) -> PackedRecords:
        """Returns the records at these positions, in this order, without unpacking them."""
        ends = self._ends.tolist()
        parts = [self._bytes[ends[i] : ends[i + 1]] for i in indices]
        chosen = PackedRecords(())
        chosen._ends = torch.from_numpy(np.cumsum([0, *map(len, parts)]))
        chosen._bytes = torch.cat(parts) if parts else self._bytes[:0]
        return chosen

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
