"""YAML files onto a typed defaults tree: `_BASE_` inheritance, no duplicate keys, no unknown keys, no type changes.

Both halves load their configs through here; the defaults trees themselves live in `pretrain.config` and
`transfer.config.defaults`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from pretrain.runtime.errors import ExpectedError

BASE_KEY = "_BASE_"


class ConfigError(ExpectedError, ValueError):
    """A config that cannot be used; the message names the file, the key and the remedy."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice in one mapping (plain PyYAML silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(
                    f"{self.name}: key '{key}' stands twice, on line {seen[key]} and line "
                    f"{key_node.start_mark.line + 1}; keep one of them"
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """One YAML file as a dict, `_BASE_` (relative to the file) not resolved.

    Raises:
        ConfigError: no such file, a duplicate key, a YAML error, a tag that would run code, or no mapping at the top.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"config file '{path}' does not exist; check the path") from None
    loader = _StrictLoader(text)
    loader.name = str(path)
    try:
        data = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read '{path}': {error}") from error
    finally:
        loader.dispose()
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"'{path}' holds a {type(data).__name__}, not a mapping of keys to values")
    return data


def load_yaml_with_base(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The same with `_BASE_` files merged underneath; a base is relative to the file that names it."""
    return _load(Path(path), chain=())


def _load(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in chain:
        raise ConfigError(f"'{path}' is its own {BASE_KEY}: {' -> '.join(map(str, chain))}")
    data = load_yaml(path)
    base = data.pop(BASE_KEY, None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"'{path}': {BASE_KEY} must be a file name, not {base!r}")
    base_path = Path(os.path.expandvars(os.path.expanduser(base)))
    base_path = base_path if base_path.is_absolute() else path.parent / base_path
    if not base_path.is_file():
        raise ConfigError(f"'{path}' builds on {BASE_KEY}: '{base}', but '{base_path}' does not exist")
    return _merge_dicts(_load(base_path, (*chain, path.resolve())), data)


def _merge_dicts(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge_dicts(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def merge_file(cfg: CfgNode, path: str | os.PathLike[str]) -> None:
    """Merges a YAML file (with its bases) into `cfg`.

    Raises:
        ConfigError: see `load_yaml`; also for an unknown key (the nearest known ones are named) or a value whose
            type does not fit the default's.
    """
    merge_dict(cfg, load_yaml_with_base(path), source=str(path))


def merge_dict(cfg: CfgNode, values: Mapping[str, Any], source: str) -> None:
    """Merges a nested dict into `cfg`; `source` names it in errors."""
    known = set(dotted_keys(cfg))
    for key in dotted_keys(values):
        check_known(key, known, source)
    try:
        cfg.merge_from_other_cfg(CfgNode(_ints_to_floats(values, cfg)))
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"{source}: {_in_words(error)}") from error


def merge_opts(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merges `KEY VALUE KEY VALUE ...` from a command line."""
    known = set(dotted_keys(cfg))
    if len(opts) % 2:
        bare = next((a for a, b in pairwise(opts) if a in known and b in known), opts[-1])
        raise ConfigError(f"options come in pairs KEY VALUE, but '{bare}' has no value (or another key lacks its own)")
    for key in opts[::2]:
        check_known(key, known, "command line")
    try:
        cfg.merge_from_list([w if i % 2 == 0 else _float_word(cfg, opts[i - 1], w) for i, w in enumerate(opts)])
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"command line: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """fvcore's message; of a value whose type does not fit in the order key, value, remedy."""
    match = re.fullmatch(r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\) with values \((.*) vs\. (.*)\) "
                         r"for config key: (\S+)", str(error), re.DOTALL)  # fmt: skip
    if match is None:
        return str(error)
    wanted, given, default, value, key = match.groups()
    return f"{key} is {value} ({given}); give a value like '{default}' ({wanted})"


def _ints_to_floats(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`LR: 1` where the default is a float means 1.0; everything else keeps its type."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, Mapping):
            value = _ints_to_floats(value, default if isinstance(default, Mapping) else {})
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        out[key] = value
    return out


def _float_word(cfg: Mapping[str, Any], key: str, word: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    try:
        return float(int(word)) if isinstance(node, float) else word
    except ValueError:
        return word


def dotted_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every leaf key of a tree, dotted; an empty sub-tree counts as a leaf."""
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
    nearest = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    last = key.rsplit(".", 1)[-1]
    nearest = nearest or sorted(k for k in known if k.rsplit(".", 1)[-1] == last)[:3]
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    raise ConfigError(f"{source}: unknown key '{key}'{hint}")


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, e.g. `SOLVER.BASE_LR`; KeyError if there is none."""
    node: Any = tree
    for part in key.split("."):
        node = node[part]
    return node


def check_values(cfg: Mapping[str, Any], choices: Mapping[str, Sequence[str]], minima: Mapping[str, float]) -> None:
    """Raises ConfigError for a key whose value is none of its `choices`, or is below its minimum (NaN is below all)."""
    for key, known in choices.items():
        if (value := value_at(cfg, key)) not in known:
            raise ConfigError(f"{key} is '{value}'; it must be {' or '.join(known)}")
    for key, minimum in minima.items():
        if not (value := value_at(cfg, key)) >= minimum:  # written so that NaN fails too
            raise ConfigError(f"{key} is {value}; it must be at least {minimum}")


def to_dict(node: Any) -> Any:
    """A CfgNode tree as plain dicts and lists (what goes into JSON and digests)."""
    if isinstance(node, Mapping):
        return {key: to_dict(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [to_dict(value) for value in node]
    return node
