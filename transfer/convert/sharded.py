"""Reads checkpoints in several safetensors files, as Hugging Face writes them: an index says where each tensor lies."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.files import read_regular
from pretrain.runtime.provenance import file_sha256

SUFFIX = ".index.json"
_LARGEST = 1 << 26  # bytes of an index
_ONE_OF_SEVERAL = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)\.safetensors")


class ShardingError(ExpectedError, ValueError):
    """An index and shards that do not make one checkpoint; the message names the first thing that is wrong."""


def index_of(folder: Path) -> Path | None:
    """Returns the index in a folder; None if there is none.

    Raises:
        ShardingError: there are several.
    """
    found = sorted(folder.glob(f"*.safetensors{SUFFIX}")) or sorted(folder.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        raise ShardingError(f"it holds several checkpoints ({', '.join(path.name for path in found[:4])}); give one of "
                            "these")  # fmt: skip
    return found[0] if found else None


def is_index(path: Path) -> bool:
    """Returns whether a file is named as an index, and is JSON."""
    with open(path, "rb") as f:
        return path.name.endswith(SUFFIX) and is_json(f.read(64))


def is_json(head: bytes) -> bool:
    """Returns whether a file begins as JSON does. Safetensors do not: they have the length of their JSON before it."""
    return head.lstrip()[:1] == b"{" and b"\0" not in head[:64]


def shards(index: Path) -> dict[str, list[str]]:
    """Returns file name (relative to the index) -> names of the tensors in it.

    Raises:
        ShardingError: the file is no index or names a tensor twice, or a shard is missing or is not beside the index.
        OSError: the index cannot be read.
    """
    if index.stat().st_size > _LARGEST:
        raise ShardingError(f"it is JSON of more than {_LARGEST >> 20} MiB, which no index has")
    try:
        content = json.loads(read_regular(index).decode("utf-8"), object_pairs_hook=_without_doubles)
    except ShardingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ShardingError(f"it is no whole JSON ({error}); copy it again") from error
    where = content.get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise ShardingError("it is JSON, but no index of shards (no 'weight_map' from tensors to files); give the "
                            "checkpoint itself")  # fmt: skip
    found: dict[str, list[str]] = {}
    for tensor, name in where.items():
        found.setdefault(name, []).append(tensor)
    for name in found:
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == ".." or "\0" in name:
            raise ShardingError(f"its index names '{name}', which lies outside its folder; no program writes that")
        if not name.endswith(".safetensors"):
            raise ShardingError(f"its shard '{name}' is no safetensors file; write the model again as safetensors, or "
                                "its state dict with torch.save to one file")  # fmt: skip
    if gone := [name for name in found if not (index.parent / name).is_file()]:
        raise ShardingError(f"{len(gone)} of its {len(found)} shards are missing: {', '.join(gone[:3])}"
                            f"{', ...' * (len(gone) > 3)}; copy them to '{index.parent}'")  # fmt: skip
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise ShardingError(f"its index names '{next(n for n in names if names.count(n) > 1)}' twice; write it again")
    return out


def read(index: Path) -> tuple[dict[str, Tensor], Mapping[str, str], int]:
    """Returns the tensors of all shards in the index's order, the metadata that they carry, and the number of shards.

    Raises:
        ShardingError: see `shards`; also if a shard holds other tensors than its index says.
    """
    from safetensors import safe_open  # imported where it is needed: other files are read without it

    found = shards(index)
    where = {tensor: name for name, tensors in found.items() for tensor in tensors}
    metadata: dict[str, str] = {}
    out: dict[str, Tensor] = {}
    for name, wanted in found.items():
        try:
            with safe_open(index.parent / name, framework="pt") as f:
                there = set(f.keys())
                if twice := sorted(tensor for tensor in there if where.get(tensor, name) != name):
                    raise ShardingError(
                        f"'{twice[0]}' is in two of its shards, '{name}' and '{where[twice[0]]}'; write it again"
                    )
                if other := sorted(there.symmetric_difference(wanted)):
                    says = "names" if other[0] in where else "does not name"
                    has = "has not" if other[0] in where else "has"
                    raise ShardingError(f"its index {says} '{other[0]}' in '{name}', which {has} that tensor; they are "
                                        "not of one checkpoint, copy both again")  # fmt: skip
                out |= {tensor: f.get_tensor(tensor) for tensor in wanted}
                metadata |= f.metadata() or {}
        except ShardingError:
            raise
        except Exception as error:  # safetensors has no class of its own for all that can be wrong
            raise ShardingError(f"its shard '{name}' cannot be read ({error}); copy it again") from error
    return {tensor: out[tensor] for tensor in where}, metadata, len(found)


def refuse_one_of_several(path: Path) -> None:
    """Raises ShardingError for a file that is a shard by its name."""
    match = _ONE_OF_SEVERAL.fullmatch(path.name)
    if match is not None and int(match["count"]) > 1:
        index = path.with_name(f"{match['stem']}.safetensors{SUFFIX}")
        there = "" if index.is_file() else ", which is not beside it: copy that too"
        count = int(match["count"])
        raise ShardingError(f"it is one of {count} shards of a checkpoint; give their index '{index.name}'{there}")


def files(path: Path) -> list[Path]:
    """Returns the files of a checkpoint: the file itself, or the index (also that of a folder) and its shards.

    Raises:
        ShardingError: see `shards`.
    """
    index = index_of(path) if path.is_dir() else path
    if index is None or not index.is_file() or not is_index(index):
        return [path]
    return [index, *(index.parent / name for name in sorted(shards(index)))]


def sha256(path: Path) -> str:
    """Returns the hex SHA-256 of a checkpoint.

    It is that of the file's bytes or, for several files, that of their names and digests, line by line.

    Raises:
        ShardingError: see `shards`.
    """
    found = files(path)
    if len(found) == 1:
        return file_sha256(found[0])
    lines = [f"{os.path.relpath(file, found[0].parent)} {file_sha256(file)}\n" for file in found]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
