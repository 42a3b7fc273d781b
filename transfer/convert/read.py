"""Reading checkpoints of either world without running any code that they may carry."""

from __future__ import annotations

import importlib
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.collector import without_collection
from transfer.convert import keymap
from transfer.convert.archive import ArchiveError, check_intact, open_archive
from transfer.convert.pickles import PickleError, scan

# All that a file of numpy arrays in plain containers needs.
_ARRAYS = {
    "collections.OrderedDict",
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.{name}" for core in ("core", "_core")
      for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")),
}  # fmt: skip
# Configurations that projects save beside their weights. They are read as inert records, and nothing of theirs runs.
_SETTINGS = re.compile(
    r"^(argparse\.Namespace|pathlib\.|omegaconf\.|hydra\.|(pytorch_)?lightning(_fabric)?\.|mmcv\.|mmengine\.|addict\.|"
    r"easydict\.|yacs\.|ml_collections\.|typing\.|enum\.|numpy\.dtypes\.|builtins\.(dict|list|set|tuple|int|float|"
    r"str|bool|type)$|collections\.(defaultdict|Counter)$|torch\.(device|Size|dtype)$|torch\.torch_version\.)"
)
_TORCH = re.compile(r"^(torch\.\w+Storage|torch\._utils\._rebuild_\w+|torch\.storage\.\w+|torch\.(bfloat16|float\d+|"
                    r"u?int\d+|bool)|torch\.nn\.parameter\.Parameter|torch\.Tensor)$")  # fmt: skip
_SHARDED = ("torch.distributed.", "torch._utils._rebuild_wrapper_subclass")
_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # first object of torch files from before 1.6
_OTHER_FILES = (
    (b"version https://git-lfs", "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x1f\x8b", "it is compressed with gzip; decompress it first"),
    (b"BZh", "it is compressed with bzip2; decompress it first"),
    (b"\xfd7zXZ", "it is compressed with xz; decompress it first"),
    (b"<", "it is a web page, so the download failed; download it again"),
    (b"\x89HDF", "it is an HDF5 file; export the weights from its project with torch.save"),
)


class Settings(dict):
    """What stands for a configuration object: takes any state, does nothing with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Settings:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


@dataclass(frozen=True)
class File:
    """A file that was read.

    Attributes:
        content: nested containers of tensors and arrays; tensors of a zip file are mapped from the disk, not copied.
        kind: the container, in words.
        names: classes and functions that its pickle names, as "module.name".
        checksums: see `archive.Archive`; empty where the container has none.
    """

    path: Path
    content: Any
    kind: str
    names: tuple[str, ...] = ()
    checksums: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)

    def check_intact(self, tensors: Iterable[tuple[str, Any]]) -> dict[int, int]:
        """Raises CheckpointError unless these tensors are, byte for byte, what was written (as far as it can tell).

        Returns:
            Address -> CRC-32, for `values.checksum`.
        """
        try:
            return check_intact(((n, t) for n, t in tensors if isinstance(t, Tensor)), self.checksums)
        except ArchiveError as error:
            raise _refusal(self.path, str(error)) from error


def read_file(path: str | os.PathLike[str], trust: bool = False) -> Any:
    """The content alone of what `open_file` reads."""
    return open_file(path, trust).content


def open_file(path: str | os.PathLike[str], trust: bool = False) -> File:
    """A torch checkpoint (`.pth`, `.pth.tar`, ...), a pickle of numpy arrays (`.pkl`), or a safetensors file.

    The kind is told by the file's first bytes, not by its name.

    Args:
        trust: unpickle whatever the file asks for, which can run any program. `runs(path)` says what it asks for.

    Raises:
        CheckpointError: missing, truncated, or holding anything but tensors, arrays and plain containers.
    """
    path = Path(path)
    if path.is_dir():
        raise _refusal(path, "it is a folder (of a sharded checkpoint?); write one file with "
                       "torch.distributed.checkpoint.format_utils.dcp_to_torch_save")  # fmt: skip
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; check the path")
    try:
        with without_collection():
            return _open(path, trust)
    except CheckpointError:
        raise
    except (ArchiveError, PickleError) as error:
        raise _refusal(path, str(error)) from error
    except MemoryError as error:
        raise _refusal(path, "it asks for more memory than there is") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise _refusal(path, f"{reason.rstrip('.')}; it is damaged, copy or export it again") from error


def runs(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Classes and functions, as "module.name", that only unpickling with `trust` would call; empty for safe files."""
    path = Path(path)
    try:
        names = _names(path)
    except (ArchiveError, PickleError, OSError):
        return ()  # reading it says what is wrong
    torch_file = _head(path)[:4] == b"PK\x03\x04" or _LEGACY in _head(path)
    return tuple(_foreign(names, torch_file))


def _open(path: Path, trust: bool) -> File:
    head = _head(path)
    for magic, reason in _OTHER_FILES:
        if head.startswith(magic):
            raise _refusal(path, reason)
    if head[:4] == b"PK\x03\x04":
        archive = open_archive(path)
        names = scan(archive.pickle).names
        return File(path, _load_torch(path, names, trust, mmap=True), "torch zip", names, archive.checksums)
    if head[8:9] == b"{":
        return _open_safetensors(path)
    if _LEGACY in head:
        names = _names(path)
        return File(path, _load_torch(path, names, trust, mmap=False), "torch before 1.6", names)
    if not head.startswith((b"\x80", b"(", b"}", b"c")):
        raise _refusal(path, "it is no torch checkpoint, no pickle and no safetensors file, or empty")
    names = _names(path)
    with open(path, "rb") as f:
        if trust:
            return File(path, pickle.load(f, encoding="latin1"), "pickle", names)  # the user has seen runs()
        if foreign := _foreign(names, torch_file=False):
            raise _refusal(path, _asks(foreign))
        return File(path, _ArrayUnpickler(f, encoding="latin1").load(), "pickle", names)


def _head(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(64)


def _names(path: Path) -> tuple[str, ...]:
    """What every pickle of the file asks for; torch files from before 1.6 hold several in a row."""
    head = _head(path)
    if head[:4] == b"PK\x03\x04":
        return scan(open_archive(path).pickle).names
    with open(path, "rb") as f:
        return tuple(dict.fromkeys(n for _ in range(5 if _LEGACY in head else 1) for n in scan(f).names))


def _foreign(names: Iterable[str], torch_file: bool) -> list[str]:
    """The names that make a file unsafe to read."""
    known = _ARRAYS | {"builtins.set", "builtins.bytearray"} if torch_file else _ARRAYS
    return [n for n in names if n not in known and not _SETTINGS.match(n) and not (torch_file and _TORCH.match(n))]


def _load_torch(path: Path, names: tuple[str, ...], trust: bool, mmap: bool) -> Any:
    if trust:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=mmap)
    if sharded := [n for n in names if n.startswith(_SHARDED)]:
        raise _refusal(path, f"it holds shards of a distributed model ({sharded[0]}); save the full state dict, "
                       "gathered on one process")  # fmt: skip
    if foreign := _foreign(names, torch_file=True):
        raise _refusal(path, _asks(foreign))
    inert = [(_inert(n), n) for n in names if _SETTINGS.match(n) and not n.startswith("torch.")]
    with torch.serialization.safe_globals([*_numpy_names(), *inert]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _inert(name: str) -> Any:
    """What stands for a class of a configuration; torch fills only exact dicts item by item."""
    if name == "builtins.set":
        return set
    if name == "collections.defaultdict":
        return _new_dict
    return OrderedDict if re.search(r"(AttributeDict|ConfigDict|\bDict|EasyDict|CfgNode)$", name) else Settings


def _new_dict(*_: Any) -> OrderedDict:
    return OrderedDict()


def _numpy_names() -> list[Any]:
    multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    cores = ("numpy.core.multiarray", "numpy._core.multiarray")
    functions = [(getattr(multiarray, f), f"{core}.{f}") for core in cores for f in ("_reconstruct", "scalar")]
    return [*functions, np.ndarray, np.dtype, *(getattr(np.dtypes, n) for n in np.dtypes.__all__ if n != "ObjectDType")]


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _ARRAYS:
            return super().find_class(module, name)
        if _SETTINGS.match(full):
            return _inert(full)
        raise pickle.UnpicklingError(_asks([full]))


def _open_safetensors(path: Path) -> File:
    from safetensors import safe_open  # imported where it is needed: other files are read without it

    with safe_open(path, framework="pt") as f:
        content: dict[str, Any] = {name: f.get_tensor(name) for name in f.keys()}
        stated = f.metadata() or {}
    return File(path, TensorsAndFacts(content, stated.get("moco-transfer")), "safetensors")


class TensorsAndFacts(OrderedDict):
    """A flat state dict that carries metadata as an attribute, where `load_state_dict` does not trip over it."""

    def __init__(self, tensors: Mapping[str, Any], facts: str | None = None):
        super().__init__(tensors)
        self._metadata = OrderedDict({"moco-transfer": facts} if facts else {})


def _asks(names: list[str]) -> str:
    return (
        f"it asks for {', '.join(names[:4])}, which is not data; export its tensors with torch.save(state_dict), or, "
        "if you know who wrote it, add --trust"
    )


def _refusal(path: Path, reason: str) -> CheckpointError:
    size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
    return CheckpointError(f"cannot read checkpoint '{path}'{size}: {reason}")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a file written for Detectron2 (`{"model": ...}`), trunk or whole detector, by their names there.

    Caffe2's names (the MSRA files) are translated; the running statistics that they fold away become 0 and 1.

    Raises:
        CheckpointError: unreadable, or not a file for Detectron2.
    """
    content = read_file(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        return {k: torch.as_tensor(v) for k, v in content["model"].items() if hasattr(v, "shape")}
    blobs = content.get("blobs", content) if isinstance(content, Mapping) else {}
    if isinstance(blobs, Mapping) and "conv1_w" in blobs:
        renamed = keymap.rename(list(blobs), keymap.caffe2_to_detectron2)
        return with_identity_statistics({new: torch.as_tensor(blobs[old]) for old, new in renamed.items()})
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
