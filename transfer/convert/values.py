"""Converts tensors to what a trunk needs: float32 in this machine's byte order, whatever the file holds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer.convert.architecture import AuditError

_CONVERTED = (torch.float16, torch.bfloat16, torch.float64)


def as_float32(tensors: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors in float32 (counters in int64), and notes on what was converted; float32 is not copied.

    Raises:
        AuditError: a value is no dense tensor of real numbers: quantised, sparse, complex, or integer weights.
    """
    out, found = {}, set()
    for name, value in tensors.items():
        tensor = _dense(name, value)
        if name.endswith("num_batches_tracked"):
            if tensor.is_complex() or tensor.numel() != 1:
                raise AuditError(
                    f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not a number; nothing was written"
                )
            out[name] = tensor.to(torch.int64).reshape(())
        elif tensor.dtype == torch.float32:
            out[name] = tensor.contiguous()  # channels_last convolves with another rounding
        elif tensor.dtype in _CONVERTED:
            found.add(str(tensor.dtype).removeprefix("torch."))
            out[name] = tensor.to(torch.float32).contiguous()
        else:
            raise AuditError(f"{name} is of {tensor.dtype}, not a float of 16 bits or more; export it as float32")
    return out, [f"weights of {', '.join(sorted(found))} were converted to float32"] if found else []


def _dense(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise AuditError(f"{name} is an array of {value.dtype}, not of numbers; export it as float32")
        native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
        if native.dtype.type not in _NUMPY:
            raise AuditError(f"{name} is an array of {value.dtype}, which torch has not; export it as float32")
        return torch.from_numpy(native)
    tensor: Tensor = value.detach()
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "quantised" if tensor.is_quantized else f"a {type(tensor).__name__} of layout {tensor.layout}"
        raise AuditError(f"{name} is {kind}, not a dense tensor; export the full float32 state dict")
    return tensor


_NUMPY = (np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.bool_)


def checksum(tensors: Mapping[str, Tensor], known: Mapping[int, int] | None = None) -> int:
    """Returns a CRC-32 over each tensor's name, shape and CRC-32 of its bytes, in the order of the names.

    Args:
        known: address of a tensor's first byte -> CRC-32 of its bytes, if that was computed before.
    """
    crc = 0
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        own = (known or {}).get(value.data_ptr())
        own = zlib.crc32(value.numpy().data) if own is None else own
        crc = zlib.crc32(f"{name} {tuple(value.shape)} {own};".encode(), crc)
    return crc
