"""A GPU that is none: its tensors say `cuda:0`, keep their numbers on the CPU, and are as strict as a real one's.

What only a GPU would show is shown on any machine: a tensor that was left on the CPU (an error, as CUDA has it, but for
single numbers and for indices), and every place where the host would wait for the device (`VirtualGPU.waits`): reading
a number, boolean indices, copies to the host, copies from memory that is not pinned. It says nothing of rounding, of
speed, of memory, of several GPUs, or of kernels; `tests/gpu` does, on a machine that has one.

    with virtual_gpu() as gpu:
        x = torch.ones(3, device="cuda")
        float(x.sum())
    assert gpu.waits == {"_local_scalar_dense": 1}
"""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_any, tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
ROOT = Path(__file__).parents[1]
# Operators whose result, or its size, the host must know before it goes on.
READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "nms",
    "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip
# Functions that make tensors of their own below the operators, where nobody sees on which device.
WHOLE = {"one_hot"}
# Operators that take indices, which CUDA accepts from the CPU too.
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


@dataclass
class VirtualGPU:
    """What was seen.

    Attributes:
        waits: how often the host would have waited, by operator.
        places: the same by line of the project, `pretrain/loop.py:12 nonzero`.
    """

    waits: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)

    def wait(self, why: str) -> None:
        self.waits[why] += 1
        self.places[f"{_place()} {why}"] += 1


def _place() -> str:
    """The innermost line of the project that is being executed."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "pretrain") or path.is_relative_to(ROOT / "transfer"):
            return f"{path.relative_to(ROOT).as_posix()}:{frame.lineno}"
    return "elsewhere"


_gpu: list[VirtualGPU] = []  # the one in use


class OnGPU(Tensor):
    """A tensor of the virtual GPU; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        assert type(held) is Tensor, f"{type(held).__name__} within a tensor of the virtual GPU"
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held.detach()
        return made

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGPU({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = OnGPU(self.held.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        indices = args[1] if name in INDEXED else ()
        _refuse_mixing(name, args if name not in INDEXED else (args[0], *args[2:]), kwargs)
        if name in READS:
            _gpu[-1].wait(name)
        fills = name.startswith(("index_put", "_index_put")) and type(args[2]) is Tensor and args[2].dim() == 0
        if any(_is_mask(index) for index in indices) and not fills:  # one number where a mask is true is a fill
            _gpu[-1].wait("boolean index")
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            _gpu[-1].wait(name)
        if name == "copy_" and type(args[1]) is Tensor and not _waits_not(args, kwargs):
            _gpu[-1].wait("copy from memory that is not pinned")
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_on_gpu, out))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _waits_not(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a `copy_` is asynchronous, or of a single number, which travels with the launch."""
    return bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2])) or args[1].dim() == 0


def _refuse_mixing(name: str, args: Any, kwargs: Any) -> None:
    if torch._C._current_graph_task_id() != -1:  # backward: zeros that C++ makes by a tensor's type, no code of ours
        return
    here = [x for x in tree_leaves((args, kwargs)) if type(x) is Tensor or type(x) is torch.nn.Parameter]
    if name != "copy_" and any(x.dim() > 0 for x in here):
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"
        )


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnGPU) else x


def _on_gpu(x: Any) -> Any:
    return OnGPU(x) if type(x) is Tensor else x


class _Functions(TorchFunctionMode):
    """What is decided above the operators: factories that name a device, moves, and what reads a tensor as a whole."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cuda", "cpu", "type_as") and isinstance(args[0], Tensor):
            return self._move(name, func, args, kwargs)
        if name in ("tolist", "numpy", "__array__") and isinstance(args[0], OnGPU):
            if name != "tolist":
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            _gpu[-1].wait(name)
            return args[0].held.tolist()
        if name == "pin_memory" and isinstance(args[0], Tensor):
            return args[0]
        if name in WHOLE and isinstance(args[0], OnGPU):
            return tree_map(_on_gpu, func(*tree_map(_held, args), **tree_map(_held, kwargs)))
        if name == "new_tensor" and isinstance(args[0], OnGPU):
            _gpu[-1].wait("copy from memory that is not pinned")
            return OnGPU(func(args[0].held, *args[1:], **{k: v for k, v in kwargs.items() if k != "device"}))
        kwargs.pop("pin_memory", None)
        wanted = kwargs.get("device")
        if wanted is None or torch.device(wanted).type != "cuda":
            return func(*args, **kwargs)
        if args and isinstance(args[0], OnGPU):  # it has the device of that
            return func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
        if name in ("tensor", "as_tensor", "asarray"):
            _gpu[-1].wait("copy from memory that is not pinned")
        return tree_map(_on_gpu, func(*args, **{**kwargs, "device": torch.device("cpu")}))

    def _move(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        x, *rest = args
        device = _device(name, rest, kwargs)
        wait = not (kwargs.get("non_blocking") or (name == "to" and True in [r for r in rest if isinstance(r, bool)]))
        if device is None or (device.type == "cuda") == isinstance(x, OnGPU):
            if isinstance(x, OnGPU) and device is not None:  # same device: what is left is the type
                rest = [r for r in rest if not isinstance(r, torch.device | str)]
                kwargs.pop("device", None)
                if name in ("cuda", "cpu") or (not rest and not set(kwargs) - {"non_blocking"}):
                    return x
            return func(x, *rest, **kwargs)
        if device.type == "cuda":
            if wait and x.dim():
                _gpu[-1].wait("copy from memory that is not pinned")
            return _Up.apply(_typed(x, rest, kwargs))
        _gpu[-1].wait("copy to the host")
        return _typed(_Down.apply(x), rest, kwargs)


def _device(name: str, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """Where a move goes; None if it only changes the type."""
    if name in ("cuda", "cpu"):
        return torch.device(name)
    for word in (*rest, kwargs.get("device"), kwargs.get("other")):
        if isinstance(word, Tensor):
            return word.device
        if isinstance(word, torch.device | str):
            return torch.device(word)
    return None


def _typed(x: Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """`x` in the type and the memory format that the move asks for."""
    with torch._C.DisableTorchFunction():
        dtypes = [w.dtype if isinstance(w, Tensor) else w for w in (*rest, kwargs.get("dtype"), kwargs.get("other"))]
        for dtype in dtypes:
            if isinstance(dtype, torch.dtype):
                x = x.to(dtype)
        if (format := kwargs.get("memory_format")) is not None:
            x = x.to(memory_format=format)
        return x


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnGPU(x.detach().as_subclass(Tensor).clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _held(grad).clone()


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _held(x).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return OnGPU(grad.detach().clone())


def _grouped(tensors: Any, with_indices: bool = False) -> Any:
    """What an optimizer asks before it takes tensors together: C++ knows them to be on the CPU."""
    found = _group(tensors, with_indices)
    return {
        (DEVICE if tree_any(_is_on_gpu, group) else device, dtype): group for (device, dtype), group in found.items()
    }


def _is_on_gpu(x: Any) -> bool:
    return isinstance(x, OnGPU)


_optimizer = importlib.import_module("torch.optim.optimizer")
_group = _optimizer._group_tensors_by_device_and_dtype


def _as_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.autocast` and `torch.amp.GradScaler` of a GPU, which the CPU's stand for."""

    @functools.wraps(factory, updated=())
    def made(device: str = "cuda", *args: Any, **kwargs: Any) -> Any:
        return factory("cpu" if torch.device(device).type == "cuda" else device, *args, **kwargs)

    return made


@contextmanager
def virtual_gpu() -> Iterator[VirtualGPU]:
    """Lends one GPU to everything within, where torch sees none."""
    seen = VirtualGPU()
    _gpu.append(seen)
    cuda = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "set_device": lambda device: None, "get_device_name": lambda device=None: "virtual GPU",
        "max_memory_allocated": lambda device=None: 0, "reset_peak_memory_stats": lambda device=None: None,
        "synchronize": lambda device=None: seen.wait("synchronize"),
        "get_rng_state": lambda device=None: torch.get_rng_state(), "set_rng_state": lambda state, device=None: None,
        "manual_seed_all": lambda seed: None, "is_bf16_supported": lambda *a: True, "empty_cache": lambda: None,
    }  # fmt: skip
    scaler, autocast = torch.amp.GradScaler, torch.autocast
    patches = [mock.patch.object(torch.cuda, name, function) for name, function in cuda.items()]
    stand_ins = {id(scaler): _as_cpu(scaler), id(autocast): _as_cpu(autocast)}
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] in ("pretrain", "transfer")] + [
        torch,
        torch.amp,
    ]:
        for name in ("GradScaler", "autocast"):
            if (stand_in := stand_ins.get(id(vars(module).get(name)))) is not None:
                patches.append(mock.patch.object(module, name, stand_in))
    patches.append(mock.patch.object(_optimizer, "_group_tensors_by_device_and_dtype", _grouped))
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        stack.callback(_gpu.pop)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `Module.to` makes parameters anew
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(_Functions())
        yield seen
