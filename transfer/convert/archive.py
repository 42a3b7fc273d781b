"""Checks zip archives as torch writes them: what is in them, and whether the bytes are those that were written."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pretrain.runtime.errors import ExpectedError


class ArchiveError(ExpectedError, ValueError):
    """An archive that is damaged, or was not written by torch.save."""


@dataclass(frozen=True)
class Archive:
    """Holds the records of a torch file.

    Attributes:
        pickle: bytes of the record that describes the tensors.
        checksums: (bytes, CRC-32) of every storage; empty if the file was written without checksums.
    """

    pickle: bytes
    checksums: frozenset[tuple[int, int]]


def open_archive(path: Path) -> Archive:
    """Reads the table of contents and the pickle, and checks what a loader would trust.

    Raises:
        ArchiveError: the archive is truncated, is compressed (torch never compresses, an archive bomb must), has
            overlapping records, was written on a big-endian machine, or is a TorchScript program, numpy's `.npz`, or
            some other zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = {r.filename.split("/", 1)[-1]: r for r in records}
            if other := _other_archive(names, path.name):
                raise ArchiveError(other)
            _check(records, path.stat().st_size)
            unchecked = all(r.CRC == 0 for r in records)  # torch.serialization.set_crc32_options(False)
            read = partial(_stored, path) if unchecked else archive.read
            if "byteorder" in names and read(names["byteorder"]) == b"big":
                raise ArchiveError("it was written on a big-endian machine; load it and save it again with torch.save")
            pickle = read(names["data.pkl"])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, struct.error, zlib.error) as error:
        raise ArchiveError(f"its zip archive is truncated or damaged ({error})") from error
    if pickle != _as_torch_reads(path):
        raise ArchiveError("it has two tables of contents, and torch reads the other one: no program writes such files")
    storages = [r for name, r in names.items() if name.startswith("data/")]
    return Archive(pickle, frozenset() if unchecked else frozenset((r.file_size, r.CRC) for r in storages))


def _other_archive(names: Collection[str], file: str) -> str | None:
    """Returns what an archive with these records is and what to do with it; None for one of torch.save."""
    if "constants.pkl" in names:
        return f"it is a TorchScript program; save its weights: torch.save(torch.jit.load('{file}').state_dict(), ...)"
    if "data.pkl" in names:
        return None
    if names and all(name.endswith(".npy") for name in names):
        arrays = f"{{k: torch.as_tensor(v) for k, v in numpy.load('{file}').items()}}"
        return f"it is an archive of numpy arrays (.npz); save them as tensors: torch.save({arrays}, ...)"
    return (
        "it is a zip archive without data.pkl, so torch.save did not write it; unzip it first if a checkpoint is in it"
    )


def _check(records: list[zipfile.ZipInfo], size: int) -> None:
    if packed := [r.filename for r in records if r.compress_type != zipfile.ZIP_STORED]:
        raise ArchiveError(f"its record '{packed[0]}' is compressed, which torch.save never does; save it again")
    if len({r.filename for r in records}) != len(records):
        raise ArchiveError("two of its records have the same name")
    if any(r.file_size != r.compress_size or r.header_offset + r.file_size > size for r in records):
        raise ArchiveError("a record is longer than the file")
    if sum(r.file_size for r in records) > size:
        raise ArchiveError("its records overlap: together they are longer than the file")


def _as_torch_reads(path: Path) -> bytes:
    """Returns the pickle that torch's own reader finds, which may be another record than Python's reader finds."""
    try:
        return bytes(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ArchiveError(f"its zip archive is truncated or damaged ({reason})") from error


def _stored(path: Path, record: zipfile.ZipInfo) -> bytes:
    """Returns a record's bytes, which follow its local header, of a length stated there; compares no checksums."""
    with open(path, "rb") as f:
        f.seek(record.header_offset)
        header = f.read(30)
        f.seek(sum(struct.unpack("<HH", header[26:30])), 1)
        return f.read(record.file_size)


def check_intact(tensors: Iterable[tuple[str, Tensor]], checksums: frozenset[tuple[int, int]]) -> dict[int, int]:
    """Checks that each tensor's storage is, byte for byte, a whole record of the archive.

    Even without checksums no tensor may be larger than its storage (as `expand` and crafted strides make it).

    Returns:
        Address -> CRC-32, for the tensors that are alone in their storage.

    Raises:
        ArchiveError: the bytes are not those that were written.
    """
    known: dict[int, int] = {}
    storages: dict[int, tuple[str, Tensor]] = {}
    for name, value in tensors:
        storage = value.untyped_storage()
        if value.numel() * value.element_size() > storage.nbytes():
            raise ArchiveError(f"{name} is {tuple(value.shape)} over a storage of {storage.nbytes()} bytes")
        if checksums and storage.nbytes():
            storages.setdefault(storage.data_ptr(), (name, value))
    with ThreadPoolExecutor(4) as pool:  # the time goes into reading from the disk
        crcs = pool.map(_storage_crc, (value for _, value in storages.values()))
        for (name, value), crc in zip(storages.values(), crcs, strict=True):
            if (value.untyped_storage().nbytes(), crc) not in checksums:
                raise ArchiveError(f"the bytes of {name} are not those that were written (checksum); copy it again")
            if value.is_contiguous() and value.numel() * value.element_size() == value.untyped_storage().nbytes():
                known[value.data_ptr()] = crc
    return known


def _storage_crc(value: Tensor) -> int:
    return zlib.crc32(torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy().data)
