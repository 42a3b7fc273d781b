"""Finds the ResNet trunks in a loaded file, by the names and nesting of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer.convert import keymap

DEEPEST = 8  # mappings within mappings; the deepest known layout has four
# what parallel, compiled and checkpointed modules put into names, wherever they stand
_WRAPPER = r"(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_ANY = re.compile(rf"(?:^|(?<=\.)){_WRAPPER}")
_INNER = re.compile(rf"(?<=\.){_WRAPPER}")
_W = rf"\.(?:{_WRAPPER})*"  # a dot and the wrappers after it
_PARTS = rf"(?:conv[1-3]|bn[1-3]|downsample{_W}\d)\."


def _detectron2_name(key: str) -> str | None:
    key = key.removeprefix("roi_heads.") if key.startswith("roi_heads.res5.") else key
    return key if keymap.trunk_to_torchvision(key) is not None else None


@dataclass(frozen=True)
class Naming:
    """Describes one way to name the tensors of a ResNet.

    Attributes:
        block: finds the prefix (group 1) before a name of one of its blocks.
        rule: name after the prefix -> Detectron2's name; None for names that are not part of a trunk.
        stem: name of the first convolution's weight.
        own: matches, after the prefix, the names within the trunk's own modules; the rest are heads and the like.
    """

    block: re.Pattern[str]
    rule: Callable[[str], str | None]
    stem: str
    own: re.Pattern[str]


NAMINGS: Mapping[str, Naming] = {
    "torchvision": Naming(
        re.compile(rf"^((?:.*?\.)?)layer[1-4]{_W}\d+{_W}{_PARTS}"),
        keymap.trunk_to_detectron2,
        "conv1.weight",
        re.compile(r"^(conv1|bn1|layer[1-4])\."),
    ),
    "sequential": Naming(  # nn.Sequential(*children): 0 conv1, 1 bn1, 2 relu, 3 maxpool, 4 to 7 the layers
        re.compile(rf"^((?:.*?\.)?)[4-7]{_W}\d+{_W}{_PARTS}"),
        keymap.sequential_to_detectron2,
        "0.weight",
        re.compile(r"^[0-7]\."),
    ),
    "detectron2": Naming(
        re.compile(rf"^((?:.*?\.)?)res[2-5]{_W}\d+{_W}(?:conv[1-3]|shortcut)\."),
        _detectron2_name,
        "stem.conv1.weight",
        re.compile(r"^(stem\.(?!fc\.)|res[2-5]\.)"),  # stem.fc: the projection head, as MoCo's own converter leaves it
    ),
    "caffe2": Naming(
        re.compile(r"^()res[2-5]_\d+_branch(?:1|2a|2b|2c)_"),
        keymap.caffe2_to_detectron2,
        "conv1_w",
        re.compile(r"^(conv1_|res)(?!.*_momentum$)"),
    ),
}


@dataclass(frozen=True)
class Trunk:
    """Holds one trunk of a file.

    Attributes:
        path: keys from the top of the file to the state dict.
        prefix: what stands before the trunk's names there.
        naming: key of `NAMINGS`.
        renamed: full name -> Detectron2's name.
        state: the state dict.
    """

    path: tuple[str, ...]
    prefix: str
    naming: str
    renamed: Mapping[str, str] = field(repr=False)
    state: Mapping[str, Any] = field(repr=False)

    @property
    def raw(self) -> str:
        """Returns the trunk's place as the file has it, such as `state_dict > module.encoder_q.`; empty at the top."""
        return " > ".join([*self.path, *([self.prefix] if self.prefix else [])])

    @property
    def where(self) -> str:
        """Returns `raw` without what parallel and compiled modules add to names, such as `state_dict > encoder_q.`."""
        prefix = without_wrappers(self.prefix)
        return " > ".join([*self.path, *([prefix] if prefix else [])])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Returns every name of the state dict, without wrappers."""
        return tuple(map(without_wrappers, self.state))

    @property
    def strangers(self) -> tuple[list[str], list[str]]:
        """Returns the names after the prefix that a plain ResNet does not have.

        They come in two lists, those within the trunk's own modules and those beside them.
        """
        under = (k for k, v in self.state.items() if k.startswith(self.prefix) and is_tensor(v))
        bare = [_INNER.sub("", k[len(self.prefix) :]) for k in under if k not in self.renamed]
        own = NAMINGS[self.naming].own
        return [n for n in bare if own.match(n)], [n for n in bare if not own.match(n)]

    @property
    def first(self) -> str:
        """Returns the place of its first convolution or, without one, of its first tensor."""
        stems = (k for k, new in self.renamed.items() if new == "stem.conv1.weight")
        return " > ".join([*self.path, next(stems, next(iter(self.renamed), self.prefix))])

    @property
    def choice(self) -> str:
        """Returns the words by which `--trunk` takes it."""
        return self.raw or NAMINGS[self.naming].stem

    @property
    def tensors(self) -> dict[str, Any]:
        """Returns Detectron2 name -> tensor or array, as it is in the file."""
        return {new: self.state[old] for old, new in self.renamed.items()}

    def equals(self, other: Trunk) -> bool:
        """Returns whether the other trunk holds the same values, which makes it a second name of one module."""
        ours, theirs = self.tensors, other.tensors
        return ours.keys() == theirs.keys() and all(_same(ours[k], theirs[k]) for k in ours)


def without_wrappers(name: str) -> str:
    """Removes wrappers: `module.encoder_q._orig_mod.conv1.weight` -> `encoder_q.conv1.weight`."""
    return _ANY.sub("", name)


def is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def find_trunks(content: Any) -> list[Trunk]:
    """Returns every trunk in nested mappings, complete or not, in the order of the file."""
    return [trunk for path, state in _state_dicts(content) for trunk in _trunks_of(path, state)]


def tensor_names(content: Any) -> Iterator[str]:
    """Yields the names of all tensors in nested mappings, without the keys of the mappings."""
    return (k for _, state in _state_dicts(content) for k, v in state.items() if is_tensor(v))


def _state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    seen: set[int] = set()

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
        if not isinstance(node, Mapping) or id(node) in seen or len(path) > DEEPEST:
            return
        seen.add(id(node))
        named = {k: v for k, v in node.items() if isinstance(k, str)}
        if any(is_tensor(v) for v in named.values()):
            yield path, named
        for key, value in named.items():
            yield from walk(value, (*path, key))

    yield from walk(content, ())


def _trunks_of(path: tuple[str, ...], state: Mapping[str, Any]) -> Iterator[Trunk]:
    tensors = [k for k, v in state.items() if is_tensor(v)]
    for name, naming in NAMINGS.items():
        matches = (naming.block.match(k) for k in tensors)
        prefixes = dict.fromkeys(m.group(1) for m in matches if m)
        for prefix in prefixes:
            if name == "detectron2" and prefix.endswith("roi_heads."):
                continue  # res5 of a C4 detector; it belongs to the backbone
            renamed = {k: naming.rule(_INNER.sub("", k[len(prefix) :])) for k in tensors if k.startswith(prefix)}
            if name == "detectron2" and prefix.endswith("backbone."):
                root = prefix.removesuffix("backbone.")
                heads = (k for k in tensors if k.startswith(f"{root}roi_heads.res5."))
                renamed |= {k: naming.rule(k.removeprefix(root)) for k in heads}
            yield Trunk(path, prefix, name, {k: new for k, new in renamed.items() if new is not None}, state)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.numel() * a.element_size() > a.untyped_storage().nbytes():
            return False  # expanded; comparing could take for ever
        return a.dtype == b.dtype and a.shape == b.shape and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))
    return type(a) is type(b) and np.array_equal(a, b)
