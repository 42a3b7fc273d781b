"""Reading checkpoints of either world without running any code that they may carry."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.runtime import checkpoint
from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert import keymap

# All that a file of numpy arrays in plain containers needs.
_HARMLESS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core")
      for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))),
}  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not data")
        return super().find_class(module, name)


def read_file(path: str | os.PathLike[str]) -> Any:
    """Content of a torch checkpoint (`.pth`, `.pth.tar`, ...) or of a pickle of numpy arrays (`.pkl`).

    The kind is told by the file's first bytes, not by its name.

    Raises:
        CheckpointError: missing, truncated, or holding anything but tensors, arrays and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; check the path")
    with open(path, "rb") as f:
        head = f.read(64)
    if head[:4] == b"PK\x03\x04" or not head.startswith(b"\x80") or _TORCH_LEGACY in head:
        return checkpoint.load(path)
    try:
        return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:
        raise CheckpointError(
            f"cannot read '{path}' ({path.stat().st_size} bytes): {error or type(error).__name__}. Only pickles of "
            "numpy arrays are read; if you trust the file, export its tensors with torch.save(state_dict)"
        ) from error


_TORCH_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # first object of pre-1.6 torch files


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
