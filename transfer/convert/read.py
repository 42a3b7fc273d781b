"""Reads checkpoints of either engine's world without running any code that they may carry."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.collector import without_collection
from transfer.convert import keymap, safety, sharded
from transfer.convert.archive import ArchiveError, check_intact, open_archive
from transfer.convert.pickles import PickleError, scan
from transfer.convert.sharded import ShardingError

_LEGACY = re.compile(  # first object of torch files from before 1.6
    rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0a" + re.escape((0x1950A86A20F9469CFC6C).to_bytes(10, "little")), re.DOTALL
)
_OTHER_FILES = (
    (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x1f\x8b", "it is compressed with gzip; decompress it first"),
    (b"BZh", "it is compressed with bzip2; decompress it first"),
    (b"\xfd7zXZ", "it is compressed with xz; decompress it first"),
    (b"<", "it is a web page, so the download failed; download it again"),
    (b"\x89HDF", "it is an HDF5 file; export the weights from its project with torch.save"),
)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PROTOCOL = 3  # the highest that torch unpickles without running anything


@dataclass(frozen=True)
class File:
    """Holds a file that was read.

    Attributes:
        content: nested containers of tensors and arrays; tensors of a zip file are mapped from the disk, not copied.
        kind: the container, in words.
        parts: if the checkpoint consists of several files, those files, the index first.
        names: classes and functions that its pickle names, as "module.name".
        checksums: see `archive.Archive`; empty if the container has none.
    """

    path: Path
    content: Any
    kind: str
    names: tuple[str, ...] = ()
    checksums: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)
    parts: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Returns the number of bytes of all parts."""
        return sum(part.stat().st_size for part in self.parts or (self.path,))

    def check_intact(self, tensors: Iterable[tuple[str, Any]]) -> dict[int, int]:
        """Raises CheckpointError unless these tensors are, byte for byte, what was written (as far as checksums tell).

        Returns:
            Address -> CRC-32, for `values.checksum`.
        """
        try:
            return check_intact(((n, t) for n, t in tensors if isinstance(t, Tensor)), self.checksums)
        except ArchiveError as error:
            raise _refusal(self.path, str(error)) from error


def read_file(path: str | os.PathLike[str], trust: bool = False) -> Any:
    """Returns only the content of what `open_file` reads."""
    return open_file(path, trust).content


def open_file(path: str | os.PathLike[str], trust: bool = False) -> File:
    """Reads a torch checkpoint (`.pth`, `.pth.tar`, ...), a pickle of numpy arrays (`.pkl`), or safetensors.

    The kind is recognised by the file's first bytes, not by its name. Several safetensors files are read by their index
    (`*.safetensors.index.json`), or by the folder that holds it.

    Args:
        trust: whether to unpickle whatever the file asks for, which can run any program; see `runs`.

    Raises:
        CheckpointError: the file is missing, truncated, or holds anything but tensors, arrays and plain containers.
    """
    path = Path(path)
    if path.is_dir():
        path = _index_of(path)
    if not path.is_file():
        why = "is no regular file; write it to one first" if path.exists() else "does not exist; check the path"
        raise CheckpointError(f"checkpoint '{path}' {why}")
    try:
        with without_collection():
            return _open(path, trust)
    except CheckpointError:
        raise
    except (ArchiveError, PickleError, ShardingError) as error:
        raise _refusal(path, str(error)) from error
    except MemoryError as error:
        raise _refusal(path, "it asks for more memory than there is") from error
    except Exception as error:
        elsewhere = trust and isinstance(error, (ImportError, AttributeError))
        raise _refusal(path, _not_here(error) if elsewhere else _damaged(error)) from error


def _index_of(folder: Path) -> Path:
    try:
        index = sharded.index_of(folder)
    except ShardingError as error:
        raise _refusal(folder, str(error)) from error
    if index is None:
        raise _refusal(folder, f"it is a folder, and holds no *.safetensors{sharded.SUFFIX}; give the file that is in "
                       "it, or make one of a distributed checkpoint with "
                       "torch.distributed.checkpoint.format_utils.dcp_to_torch_save")  # fmt: skip
    return index


def _not_here(error: Exception) -> str:
    where = "unpickle it where its project is installed, and export its tensors there with torch.save(state_dict)"
    return f"{error}; {where}"


def _damaged(error: Exception) -> str:
    """Returns the first sentence of a reader's message, without torch's advice to read the file unsafely."""
    text = _COLOURS.sub("", str(error))
    reason = text.partition("WeightsUnpickler error: ")[2] or text
    if reason.startswith("Weights only load failed"):
        reason = "torch does not read it with its safeguards"
    lines = reason.strip().splitlines() or [type(error).__name__]
    return f"{lines[0][:200].rstrip('.')}; it is damaged, copy or export it again"


def runs(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns what unpickling with `trust` imports and may call, beyond mere data: names as "module.name"."""
    path = Path(path)
    try:
        names = _names(path)
    except (ArchiveError, PickleError, OSError):
        return ()  # reading it says what is wrong
    return safety.beyond_data(names)


def _open(path: Path, trust: bool) -> File:
    head = _head(path)
    for magic, reason in _OTHER_FILES:
        if head.startswith(magic):
            raise _refusal(path, reason)
    if head[:4] == b"PK\x03\x04":
        archive = open_archive(path)
        names = scan(archive.pickle)
        if not trust and archive.pickle[:1] == b"\x80" and archive.pickle[1] > _PROTOCOL:
            raise _refusal(path, f"it was written with pickle_protocol={archive.pickle[1]}, which torch does not read "
                           "safely; write it again with torch.save's own protocol, or, if you know who wrote it, add "
                           "--trust")  # fmt: skip
        return File(path, _load_torch(path, names, trust, mmap=True), "torch zip", names, archive.checksums)
    if any(head) and tarfile.is_tarfile(path):  # torch would read one, without safeguards
        raise _refusal(path, "it is a tar archive; unpack it with `tar -xf` and give the file that is in it")
    if sharded.is_json(head):
        return _open_sharded(path)
    if head[8:9] == b"{":
        return _open_safetensors(path)
    if _LEGACY.match(head):
        names = _names(path)
        return File(path, _load_torch(path, names, trust, mmap=False), "torch before 1.6", names)
    if not head.startswith((b"\x80", b"(", b"}", b"c")):
        raise _refusal(path, "it is no torch checkpoint, no pickle and no safetensors file, or empty")
    names = _names(path)
    with open(path, "rb") as f:
        if trust:
            content = pickle.load(f, encoding="latin1")  # the user has seen runs()
            return File(path, _without_modules(content), "pickle", names)
        if foreign := safety.foreign(names, torch_file=False):
            raise _refusal(path, safety.asks(foreign))
        return File(path, _ArrayUnpickler(f, encoding="latin1").load(), "pickle", names)


def _head(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(512)


def _names(path: Path) -> tuple[str, ...]:
    """Returns what all pickles of the file ask for; torch files from before 1.6 hold several in a row."""
    head = _head(path)
    if head[:4] == b"PK\x03\x04":
        return scan(open_archive(path).pickle)
    with open(path, "rb") as f:
        return tuple(dict.fromkeys(n for _ in range(5 if _LEGACY.match(head) else 1) for n in scan(f)))


def _load_torch(path: Path, names: tuple[str, ...], trust: bool, mmap: bool) -> Any:
    if trust:
        return _without_modules(torch.load(path, map_location="cpu", weights_only=False, mmap=mmap))
    if shard := safety.sharded(names):
        raise _refusal(path, f"it holds shards of a distributed model ({shard}); save the full state dict, "
                       "gathered on one process")  # fmt: skip
    if foreign := safety.foreign(names, torch_file=True):
        raise _refusal(path, safety.asks(foreign))
    inert = [(safety.inert(n), n) for n in names if safety.SETTINGS.match(n) and not n.startswith("torch.")]
    with torch.serialization.safe_globals([*safety.numpy_names(), *inert]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _without_modules(content: Any, depth: int = 3) -> Any:
    """Replaces a module that was saved whole, at the top or in a dict, by its state dict."""
    if isinstance(content, torch.nn.Module):
        return content.state_dict()
    if type(content) is dict and depth:
        return {key: _without_modules(value, depth - 1) for key, value in content.items()}
    return content


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in safety.ARRAYS:
            return super().find_class(module, name)
        if safety.SETTINGS.match(full):
            return safety.inert(full)
        raise pickle.UnpicklingError(safety.asks([full]))


def _open_safetensors(path: Path) -> File:
    from safetensors import safe_open  # imported where it is needed: other files are read without it

    sharded.refuse_one_of_several(path)
    with safe_open(path, framework="pt") as f:
        content: dict[str, Any] = {name: f.get_tensor(name) for name in f.keys()}
        stated = f.metadata() or {}
    return File(path, TensorsAndFacts(content, stated.get("moco-transfer")), "safetensors")


def _open_sharded(path: Path) -> File:
    if not sharded.is_index(path):
        raise _refusal(path, f"it is JSON; an index of shards is called *.safetensors{sharded.SUFFIX}")
    content, stated, count = sharded.read(path)
    facts = TensorsAndFacts(content, stated.get("moco-transfer"))
    return File(path, facts, f"safetensors in {count} shards", parts=tuple(sharded.files(path)))


class TensorsAndFacts(OrderedDict):
    """A flat state dict that carries metadata as an attribute, which `load_state_dict` does not look at."""

    def __init__(self, tensors: Mapping[str, Any], facts: str | None = None):
        super().__init__(tensors)
        self._metadata = OrderedDict({"moco-transfer": facts} if facts else {})


def _refusal(path: Path, reason: str) -> CheckpointError:
    size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
    return CheckpointError(f"cannot read checkpoint '{path}'{size}: {reason}")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads the tensors of a file written for Detectron2 (`{"model": ...}`), trunk or detector, by their names there.

    Caffe2's names (the MSRA files) are translated; the running statistics that they fold away become 0 and 1.

    Raises:
        CheckpointError: the file cannot be read, or was not written for Detectron2.
    """
    content = read_file(path)
    check_written_for_detectron2(content, path)
    if isinstance(content.get("model"), Mapping):
        return {k: torch.as_tensor(v) for k, v in content["model"].items() if hasattr(v, "shape")}
    blobs = content.get("blobs", content)
    renamed = keymap.rename(list(blobs), keymap.caffe2_to_detectron2)
    return with_identity_statistics({new: torch.as_tensor(blobs[old]) for old, new in renamed.items()})


def check_written_for_detectron2(content: Any, path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError unless the engines can load the content: `{"model": ...}`, or Caffe2's blobs."""
    if isinstance(content, Mapping):
        blobs = content.get("blobs", content)
        if isinstance(content.get("model"), Mapping) or (isinstance(blobs, Mapping) and "conv1_w" in blobs):
            return
    raise CheckpointError(
        f"'{path}' is not written for Detectron2 (no 'model' in it); convert it with "
        "tools/convert-pretrain-to-detectron2.py"
    )


def with_identity_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds running_mean 0 and running_var 1 to every norm that has only scale and shift."""
    out = dict(tensors)
    for key, value in tensors.items():
        if key.endswith("norm.weight"):
            base = key[: -len("weight")]
            out.setdefault(base + "running_mean", torch.zeros_like(value))
            out.setdefault(base + "running_var", torch.ones_like(value))
    return out
