"""Says which classes and functions a checkpoint's pickle may name, and what replaces them."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

# All that a file of numpy arrays in plain containers needs.
ARRAYS = {
    "collections.OrderedDict",
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.{name}" for core in ("core", "_core")
      for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")),
}  # fmt: skip
# Configurations that projects save beside their weights. They are read as inert records, and nothing of theirs runs.
SETTINGS = re.compile(
    r"^(argparse\.Namespace|pathlib\.|omegaconf\.|hydra\.|(pytorch_)?lightning(_fabric)?\.|mmcv\.|mmengine\.|addict\.|"
    r"easydict\.|yacs\.|ml_collections\.|fvcore\.common\.config\.|detectron2\.config\.|typing\.|enum\.|datetime\.|"
    r"numpy\.dtypes\.|builtins\.(dict|list|set|frozenset|tuple|int|float|complex|str|bool|slice|range|type)$|"
    r"collections\.(defaultdict|Counter)$|torch\.(device|Size|dtype)$|torch\.torch_version\.)"
)
_TORCH = re.compile(
    r"^(torch\.\w+Storage|torch\._utils\._rebuild_\w+|torch\.storage\.(Untyped|Typed|_Legacy)Storage|"
    r"torch\.(bfloat16|float\d+|float8_\w+|u?int\d+|bool)|torch\.nn\.parameter\.Parameter|torch\.Tensor)$"
)
# With --trust every name is imported and may be called; only these do nothing but make data.
_DATA = ARRAYS | {"builtins.set", "torch.Size", "torch.device", "torch.storage.UntypedStorage",
                   "torch.nn.parameter.Parameter", *(f"torch._utils._rebuild_{what}" for what in
                   ("tensor", "tensor_v2", "tensor_v3", "parameter"))}  # fmt: skip
_DATA_TYPE = re.compile(r"^torch\.((Bool|Byte|Char|Short|Int|Long|Half|Float|Double|BFloat16)Storage|bfloat16|bool|"
                        r"float\d+|u?int\d+)$")  # fmt: skip
_SHARDED = ("torch.distributed.", "torch._utils._rebuild_wrapper_subclass")


def foreign(names: Iterable[str], torch_file: bool) -> list[str]:
    """Returns the names that make a file unsafe to read."""
    known = ARRAYS | {"builtins.set", "builtins.bytearray"} if torch_file else ARRAYS
    return [n for n in names if n not in known and not SETTINGS.match(n) and not (torch_file and _TORCH.match(n))]


def beyond_data(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names that a reader without safeguards would import and may call."""
    return tuple(n for n in names if n not in _DATA and not _DATA_TYPE.match(n))


def sharded(names: Iterable[str]) -> str | None:
    """Returns the first name that only shards of a distributed model have."""
    return next((n for n in names if n.startswith(_SHARDED)), None)


class Settings(dict):
    """Replaces a configuration object: takes any state, and does nothing with it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Settings:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def inert(name: str) -> Any:
    """Returns what replaces a class of a configuration; torch fills only exact dicts item by item."""
    if name == "builtins.set":
        return set
    if name == "collections.defaultdict":
        return _new_dict
    return OrderedDict if re.search(r"(AttributeDict|ConfigDict|\bDict|EasyDict|CfgNode)$", name) else Settings


def _new_dict(*_: Any) -> OrderedDict:
    return OrderedDict()


def numpy_names() -> list[Any]:
    multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    cores = ("numpy.core.multiarray", "numpy._core.multiarray")
    functions = [(getattr(multiarray, f), f"{core}.{f}") for core in cores for f in ("_reconstruct", "scalar")]
    return [*functions, np.ndarray, np.dtype, *(getattr(np.dtypes, n) for n in np.dtypes.__all__ if n != "ObjectDType")]


def asks(names: list[str]) -> str:
    return (
        f"it asks for {', '.join(names[:4])}, which is not data; export its tensors with torch.save(state_dict), or, "
        "if you know who wrote it, add --trust"
    )
