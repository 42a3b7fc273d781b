"""Merges YAML files into a typed defaults tree: `_BASE_` inheritance, no duplicate or unknown keys, no type changes.

Both halves load their configs with it; the defaults trees themselves are in `pretrain.config` and
`transfer.config.defaults`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime.config_kinds import Kind, check_kind, kind_of
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.fit import fitted
from pretrain.runtime.shipped import beside
from pretrain.runtime.strict_yaml import load_yaml
from pretrain.runtime.wording import did_you_mean, short

BASE_KEY = "_BASE_"


def load_yaml_with_base(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML file, merged over its `_BASE_` files; a base is found by `shipped.beside`."""
    return _merged(_files(Path(path), chain=()))


def load_yaml_of(kind: Kind, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML file as `load_yaml` does, and raises ConfigError if it is of another kind, for another command."""
    data = load_yaml(path)
    check_kind(path, load_yaml_with_base(path) if BASE_KEY in data else data, kind)
    return data


def _merged(files: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for _, values in files:
        merged = _merge_dicts(merged, values)
    return merged


def _files(path: Path, chain: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Returns (name, contents) of a file and its bases, the lowest base first."""
    data = load_yaml(path)
    own = path.resolve()
    if own in chain:
        raise ConfigError(f"'{path}' is its own {BASE_KEY}: {' -> '.join(map(str, [*chain, own]))}")
    base = data.pop(BASE_KEY, None)
    if base is None:
        return [(str(path), data)]
    if not isinstance(base, str) or not base or "\0" in base:
        raise ConfigError(f"'{path}': {BASE_KEY} must be a file name, not {short(base)}")
    base_path = beside(path, os.path.expandvars(os.path.expanduser(base)))
    if not os.path.exists(base_path):
        raise ConfigError(f"'{path}' builds on {BASE_KEY}: '{base}', but '{base_path}' does not exist")
    return [*_files(base_path, (*chain, own)), (str(path), data)]


def _merge_dicts(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge_dicts(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load(
    cfg: CfgNode, path: str | os.PathLike[str], opts: Sequence[str] = (), kinds: Mapping[str, Any] | None = None
) -> CfgNode:
    """Merges a YAML file (with its bases), then `KEY VALUE ...` options, into defaults; returns `cfg`, frozen.

    Args:
        cfg: the defaults, whose types are those that values must have.
        kinds: dotted key -> an example, for keys whose default does not show the type, such as an empty list; keys
            that `cfg` does not have are left out.

    Raises:
        ConfigError: see `merge_file`.
    """
    types = cfg.clone()
    types.defrost()
    for key, example in (kinds or {}).items():
        *branch, leaf = key.split(".")
        if leaf in (node := value_at(types, ".".join(branch)) if branch else types):
            node[leaf] = example
    merge_file(cfg, path, types)
    merge_opts(cfg, opts, types)
    cfg.freeze()
    return cfg


def merge_file(cfg: CfgNode, path: str | os.PathLike[str], types: Mapping[str, Any] | None = None) -> None:
    """Merges a YAML file (with its bases) into `cfg`.

    Args:
        types: the tree whose values have the right types; by default the present `cfg`.

    Raises:
        ConfigError: see `load_yaml`; also if the file is for another command, a key is unknown (the nearest known ones
            are named), or the type of a value does not fit the default's, down to the elements of lists.
    """
    files = _files(Path(path), chain=())
    try:
        for source, values in files:
            merge_dict(cfg, values, source, types)
    except ConfigError:  # the kind is told by contents that mean nothing to this command
        check_kind(path, _merged(files), kind_of(cfg))
        raise


def merge_dict(cfg: CfgNode, values: Mapping[str, Any], source: str, types: Mapping[str, Any] | None = None) -> None:
    """Merges a nested dict into `cfg`; `source` names it in errors. Nothing is merged if anything is wrong."""
    leaves = list(_leaves(values, cfg, set(dotted_keys(cfg)), source))
    fitting = [(key, fitted(value, value_at(types or cfg, key), key, source)) for key, value in leaves]
    for key, value in fitting:
        _set(cfg, key, value)


def merge_opts(cfg: CfgNode, opts: Sequence[str], types: Mapping[str, Any] | None = None) -> None:
    """Merges `KEY VALUE KEY VALUE ...` of a command line into `cfg`; values are Python literals, or text."""
    known = set(dotted_keys(cfg))
    if len(opts) % 2:
        bare = next((a for a, b in pairwise(opts) if a in known and b in known), opts[-1])
        raise ConfigError(f"options come in pairs KEY VALUE, but '{bare}' has no value (or another key lacks its own)")
    for key, word in zip(opts[::2], opts[1::2], strict=True):
        check_known(key, known, "command line")
        _set(cfg, key, fitted(word, value_at(types or cfg, key), key, "command line"))


def _leaves(
    values: Mapping[str, Any], node: Mapping[str, Any], known: set[str], source: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf of a nested dict that has the shape of a defaults tree."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if "." in str(key):
            raise ConfigError(f"{source}: the key {short(name)} has a dot in it; nest it: {{A: {{B: value}}}}")
        if key not in node:
            check_known(name, known, source)
        elif isinstance(node[key], Mapping) and isinstance(value, Mapping):
            yield from _leaves(value, node[key], known, source, name + ".")
        else:
            yield name, value


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *branch, leaf = key.split(".")
    node = value_at(cfg, ".".join(branch)) if branch else cfg
    if node.is_frozen():
        raise AttributeError(f"{key} cannot be set: the config is frozen")
    node[leaf] = value


def dotted_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Returns every leaf key of a tree, dotted; an empty sub-tree counts as a leaf."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from dotted_keys(value, name + ".")
        else:
            yield name


def check_known(key: str, known: set[str], source: str) -> None:
    """Raises ConfigError with the nearest known names if `key` is not one of `known` (or a prefix of one)."""
    if key in known or any(k.startswith(key + ".") for k in known):
        return
    raise ConfigError(f"{source}: unknown key {short(key)}{did_you_mean(key, known)}")


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a dotted key, e.g. `SOLVER.BASE_LR`; raises KeyError if there is none."""
    node: Any = tree
    for part in key.split("."):
        node = node[part]
    return node


def to_dict(node: Any) -> Any:
    """Returns a CfgNode tree as plain dicts and lists, for JSON and digests."""
    if isinstance(node, Mapping):
        return {key: to_dict(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [to_dict(value) for value in node]
    return node
