"""Writes what Detectron2's checkpointer, torchvision and others load, with the facts that a config must agree with."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.runtime import leftovers
from pretrain.runtime.errors import ExpectedError
from transfer.convert import keymap

EXTENSIONS = (".pkl", ".pth", ".safetensors")
NAMES = ("detectron2", "torchvision")


class OutputError(ExpectedError, ValueError):
    """An output path that its readers would not read, or that cannot be written."""


def check_output(path: Path, names: str | None = None) -> str:
    """Returns the naming to write; by default torchvision's for `.safetensors` and Detectron2's for the rest.

    Raises:
        OutputError: Detectron2 chooses no right reader by this extension, or nobody reads this extension with these
            names.
    """
    if path.suffix not in EXTENSIONS:
        raise OutputError(
            f"output '{path}' must end in .pkl or .pth: Detectron2 chooses its reader by the extension "
            "(.safetensors is for other programs)"
        )
    names = names or ("torchvision" if path.suffix == ".safetensors" else "detectron2")
    if names not in NAMES:
        raise OutputError(f"unknown names '{names}'; choose one of {', '.join(NAMES)}")
    if path.suffix == ".pkl" and names == "torchvision":
        raise OutputError(f"output '{path}': torchvision reads no .pkl; use .pth or .safetensors")
    return names


def check_places(sources: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raises OutputError if one of the outputs would be written over a source or over another one."""
    for i, path in enumerate(outputs):
        for earlier in (*sources, *outputs[:i]):
            linked = os.path.exists(path) and os.path.exists(earlier) and os.path.samefile(path, earlier)
            if linked or os.path.realpath(path) == os.path.realpath(earlier):
                what = "what is read" if earlier in sources else "another output"
                raise OutputError(f"'{path}' is {what} as well; choose another name")


@contextmanager
def staged(*outputs: Path) -> Iterator[tuple[Path, ...]]:
    """Yields paths of the same names in fresh folders beside `outputs`; moves all files there if the block ends well.

    The files are on disk before they get their final names, one after the other. Such folders that a killed process has
    left are removed. If the block raises, nothing is left, not even folders that were made for the outputs, and earlier
    files stay.

    Raises:
        OutputError: an output's folder does not exist and cannot be made, or an output is the name of a folder.
    """
    folders: list[Path] = []
    made: list[Path] = []
    living = ExitStack()
    try:
        for output in outputs:
            if os.path.isdir(output):
                raise OutputError(f"cannot write '{output}' (it is a folder); choose another name")
            try:
                made += [p for p in (output.parent, *output.parent.parents) if not p.exists() and p not in made]
                output.parent.mkdir(parents=True, exist_ok=True)
                folders.append(living.enter_context(leftovers.staging(output)))
            except OSError as error:
                raise OutputError(f"cannot write '{output}' ({error.strerror}); choose another folder") from error
        paths = tuple(folder / output.name for folder, output in zip(folders, outputs, strict=True))
        yield paths
        for path in paths:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
            os.chmod(path, 0o644)
        for path, output in zip(paths, outputs, strict=True):
            try:
                os.replace(path, output)
            except OSError as error:
                raise OutputError(f"cannot replace '{output}' ({error.strerror}); choose another name") from error
        made.clear()
    finally:
        living.close()
        for folder in sorted(made, key=lambda p: len(p.parts), reverse=True):
            with suppress(OSError):  # somebody else has put something there meanwhile
                folder.rmdir()


def write_text(text: str, path: Path) -> None:
    """Writes a text file that belongs to the weights.

    Raises:
        OutputError: the disk is full or not writable.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _not_written(path, error) from error


def write_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: Path, names: str) -> None:
    """Writes Detectron2-named tensors in the form that `path`'s extension and `names` say, metadata inside.

    `.pkl`, `.pth` with Detectron2's names: `{"model", "__author__", "matching_heuristics", "metadata"}`, where
    `matching_heuristics` lets Detectron2 find `backbone.res2...` and `roi_heads.res5...` for `res2...`, `res5...`.
    `.pth` with torchvision's names: a flat state dict that carries the metadata where `load_state_dict` does not look.
    `.safetensors`: the metadata is in its header, as JSON under "moco-transfer".
    The same tensors and metadata give the same bytes.

    Raises:
        OutputError: the disk is full or not writable.
    """
    named = _named(tensors, names)
    try:
        if path.suffix == ".safetensors":
            _save_safetensors(_separate(named), {"moco-transfer": json.dumps(dict(metadata), sort_keys=True)}, path)
        elif names == "torchvision":
            flat = OrderedDict(_separate(named))
            flat._metadata = OrderedDict({"moco-transfer": json.dumps(dict(metadata), sort_keys=True)})  # type: ignore[attr-defined]
            with open(path, "wb") as f:  # a path's name would go into the archive
                torch.save(flat, f)
        else:
            content: dict[str, Any] = {"__author__": "MOCO", "matching_heuristics": True, "metadata": dict(metadata)}
            with open(path, "wb") as f:
                if path.suffix == ".pkl":
                    _ArrayPickler(f, protocol=5).dump(content | {"model": {k: v.numpy() for k, v in named.items()}})
                else:
                    torch.save(content | {"model": _separate(named)}, f)
    except (OSError, RuntimeError) as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: Exception) -> OutputError:
    """Returns the error with its true reason: torch's writer hides an OSError behind a RuntimeError about positions."""
    reasons = [e.strerror for e in (error, error.__context__) if isinstance(e, OSError) and e.strerror]
    reason = (reasons or str(error).splitlines() or [type(error).__name__])[0]
    return OutputError(f"cannot write '{path.name}' ({reason}); free space or choose another folder or name")


class _ArrayPickler(pickle.Pickler):
    """Writes arrays so that numpy 1 and 2 can both read them, without numpy's copy of each.

    It uses nothing of protocol 5 but a read-only buffer, which becomes the `bytes` that protocol 4 would hold; numpy 1
    does not read what numpy 2 itself writes with protocol 5.
    """

    _reconstruct = np.empty(0).__reduce__()[0]

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray:
            return NotImplemented
        data = np.ascontiguousarray(value).view()
        data.flags.writeable = False
        state = (1, value.shape, value.dtype, False, pickle.PickleBuffer(data.data))
        return self._reconstruct, (np.ndarray, (0,), b"b"), state


def _save_safetensors(tensors: dict[str, Tensor], header: dict[str, str], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, header)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _named(tensors: Mapping[str, Tensor], names: str) -> dict[str, Tensor]:
    if names == "detectron2":
        return dict(tensors)
    return {new: v for k, v in tensors.items() for new in [keymap.trunk_to_torchvision(k)] if new is not None}


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous tensors, each alone in its storage, because whole storages are written."""
    seen: set[int] = set()
    out = {}
    for name, value in tensors.items():
        storage = value.untyped_storage()
        alone = storage.nbytes() == value.numel() * value.element_size() and storage.data_ptr() not in seen
        out[name] = value if alone and value.is_contiguous() else value.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return out
