"""Reads and writes files that are either whole or absent: they are written beside, synced to disk, and renamed.

Reading never unpickles arbitrary objects.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.leftovers import temporary
from pretrain.runtime.lock import check_folders
from pretrain.runtime.machine import FolderGone

# How files of torch.save begin: a zip archive, or before torch 1.6 a pickle of this number.
_TORCH = (b"PK\x03\x04", (0x1950A86A20F9469CFC6C).to_bytes(10, "little"))


class CheckpointError(ExpectedError, RuntimeError):
    """A checkpoint that cannot be read or written, with the path and the remedy in the message."""


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file in the folder of `path` and renames it to `path` once it is written and on disk.

    If the block raises, nothing is left behind and an earlier `path` stays as it was. An OSError names `path`.
    Half-written files of killed processes in that folder are removed; those of living processes stay.

    Raises:
        FolderGone: a run of this process works in a folder that does not exist any more.
    """
    path = Path(path)
    with _beside(path, mode) as (f, tmp):
        yield f
        _settle(f, tmp)
        os.replace(tmp, path)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files that mean something only together: all are on disk before the first of them gets its name.

    Until then every earlier file stays, whatever happens. Then all earlier files are removed before the first new one
    is renamed, so that of a call that is ended between two names a file is missing, which no reader overlooks; a new
    file never lies beside an old one. An OSError names the file.

    Raises:
        FolderGone: see `atomic_write`.
    """
    with ExitStack() as opened:
        written = []
        for path, content in contents.items():
            f, tmp = opened.enter_context(_beside(path, "wb"))
            f.write(content)
            _settle(f, tmp)
            written.append((tmp, path))
        for path in contents:
            path.unlink(missing_ok=True)
        for tmp, path in written:
            os.replace(tmp, path)


def _settle(f: IO[Any], tmp: Path) -> None:
    f.flush()
    os.fsync(f.fileno())
    os.chmod(tmp, 0o644)


@contextmanager
def _beside(path: Path, mode: str) -> Iterator[tuple[IO[Any], Path]]:
    """Opens a temporary file beside `path`, which is removed if it is not renamed; an OSError of it names `path`."""
    check_folders()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary(path) as (fd, tmp), os.fdopen(fd, mode) as f:
            yield f, tmp
    except OSError as error:
        temporary_name = str(path.parent / f".{path.name}.")
        if error.errno is not None and str(error.filename or temporary_name).startswith(temporary_name):
            check_folders()
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Saves an object with `torch.save`, atomically.

    Raises:
        CheckpointError: it could not be written, for instance because the disk is full; an earlier file is still there.
    """
    with checkpoint_file(path) as f:
        torch.save(obj, f)


@contextmanager
def checkpoint_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file as `atomic_write` does, for what `torch.save` writes.

    Raises:
        CheckpointError: see `save`.
    """
    try:
        with atomic_write(path) as f:
            yield f
    except FolderGone:
        raise
    except (OSError, RuntimeError) as error:  # torch's writer hides an OSError behind a RuntimeError about positions
        if isinstance(error.__context__, (KeyboardInterrupt, SystemExit)):  # a signal while writing, hidden likewise
            raise error.__context__ from None
        reasons = [e.strerror for e in (error, error.__context__) if isinstance(e, OSError) and e.strerror]
        reason = (reasons or str(error).splitlines() or ["no reason given"])[0]
        earlier = f"the earlier '{path}' is unchanged; " if os.path.exists(path) else ""
        raise CheckpointError(
            f"cannot write checkpoint '{path}' ({reason}); {earlier}free space or choose another "
            "folder, and start again"
        ) from error


def load(path: str | os.PathLike[str]) -> Any:
    """Loads a file with `torch.load` on the CPU, with `weights_only=True`.

    Raises:
        CheckpointError: the file is missing, truncated, or holds objects other than tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; check the path")
    file = f"cannot read checkpoint '{path}' ({path.stat().st_size} bytes): "
    if not is_torch_file(path):
        raise CheckpointError(
            f"{file}it is no torch checkpoint; give what torch.save wrote, e.g. what a .pkl for Detectron2 was "
            "converted from"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if foreign := re.search(r"Unsupported \w+: GLOBAL ([\w.]+)", str(error)):
            remedy = "export its tensors alone, torch.save(state_dict)"
            raise CheckpointError(f"{file}it asks for {foreign[1]}, which is not data; {remedy}") from error
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{file}{reason.rstrip('.')}; it is truncated or damaged, copy it again") from error


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Returns whether `torch.save` wrote the file, judging by its first bytes."""
    with open(path, "rb") as f:
        head = f.read(64)
    return any(magic in head for magic in _TORCH)


def misfits(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], owner: str) -> str:
    """Says how a file's tensors differ from a model's in names and shapes, at most three cases in words; else "".

    "" if they agree.

    Args:
        given: the file's tensors.
        own: the model's tensors.
        owner: what the message calls the model.
    """
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is not in {owner}" for name in given if name not in own]
    problems += [
        f"{name} is {tuple(given[name].shape)}, {owner}'s {tuple(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def save_json(obj: Any, path: str | os.PathLike[str]) -> None:
    """Writes JSON, indented and with sorted keys, atomically."""
    with atomic_write(path) as f:
        f.write(as_json(obj))


def as_json(obj: Any) -> bytes:
    """Returns JSON as `save_json` writes it."""
    return f"{json.dumps(obj, indent=1, sort_keys=True)}\n".encode()


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_chunks(f)


def _sha256_chunks(f: IO[bytes]) -> str:
    """Returns the SHA-256 of a file's bytes on Python 3.10, which lacks `hashlib.file_digest`."""
    digest = hashlib.sha256()
    for chunk in iter(lambda: f.read(1 << 20), b""):
        digest.update(chunk)
    return digest.hexdigest()
