"""Writing what Detectron2's checkpointer loads, with the facts that a config must agree with."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.runtime import checkpoint

EXTENSIONS = (".pkl", ".pth")


class OutputError(ValueError):
    """An output path that Detectron2 would not read."""


def check_output(path: Path) -> None:
    """Raises OutputError unless the extension is one by which Detectron2 chooses the right reader."""
    if path.suffix not in EXTENSIONS:
        raise OutputError(f"output '{path}' must end in .pkl or .pth: Detectron2 chooses its reader by the extension")


def write_detectron2(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes `{"model", "__author__", "matching_heuristics", "metadata"}` and a `.json` sidecar, atomically.

    `matching_heuristics` lets Detectron2 find `backbone.res2...` and `roi_heads.res5...` for `res2...`, `res5...`.
    The same tensors and metadata give the same bytes.
    """
    path = Path(path)
    check_output(path)
    content: dict[str, Any] = {"__author__": "MOCO", "matching_heuristics": True, "metadata": dict(metadata)}
    if path.suffix == ".pkl":
        content["model"] = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        with checkpoint.atomic_write(path) as f:
            pickle.dump(content, f, protocol=4)
    else:
        content["model"] = {k: v.detach().cpu().clone() for k, v in tensors.items()}
        checkpoint.save(content, path)
    checkpoint.save_json(dict(metadata), path.with_name(path.name + ".json"))
