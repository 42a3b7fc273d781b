"""Reads YAML files as plain data: mappings with text keys, lists, text, finite numbers, True and False, null.

What YAML allows beyond that is refused with the file and the line: keys written twice (PyYAML silently keeps the last),
keys that are not text, tags, several documents, infinite numbers, and aliases that grow into more than a file can hold.
A date is text. Merge keys (`<<`) work: a mapping's own keys win over those it merges.
"""

from __future__ import annotations

import copy
import math
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.shipped import not_there
from pretrain.runtime.wording import short

MAX_BYTES = 1 << 20  # of a file
MAX_DEPTH = 50  # of nested lists and mappings
MAX_NODES = 100_000  # values in a file, where an alias counts as all that it stands for
MAX_INT = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


def load_yaml(path: str | os.PathLike[str], numbered: bool = False) -> dict[str, Any]:
    """Reads one YAML file as a dict, without resolving `_BASE_`; an empty file is an empty dict.

    Args:
        numbered: whether keys may be integers, too, as in a file of another project.

    Raises:
        ConfigError: the file is missing, too large, not UTF-8, has no mapping at the top, or holds what is refused
            above.
    """
    path = Path(path)
    try:
        data = copy.deepcopy(_parsed(_text(path), numbered))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"cannot read '{path}'{where}: {error.problem or error.context}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"'{path}' holds {short(data)}, not a mapping of keys to values")
    return data


@lru_cache(maxsize=128)  # a report asks for the same few configs dozens of times
def _parsed(text: str, numbered: bool) -> Any:
    loader = _Loader(text)
    loader.keys = (*loader.keys, _TAG + "int") if numbered else loader.keys
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _text(path: Path) -> str:
    """Returns the file's text; devices and folders are not opened."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ConfigError(f"'{path}' is no regular file; give a YAML file")
        if state.st_size > MAX_BYTES:
            raise ConfigError(f"'{path}' has {state.st_size} bytes, a config {MAX_BYTES} at most; give a YAML file")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(not_there(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"config file {str(path)!r} cannot be read ({reason}); check the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"'{path}', line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"'{path}', line {line}: the character {ascii(found[0])} cannot be in YAML; delete it")
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader that checks every node while the document is composed, before anything is made of it."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]  # no timestamps
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0
    keys: tuple[str, ...] = (_TAG + "str", _TAG + "merge")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth == MAX_DEPTH:
            raise _problem(self.peek_event(), f"there are more than {MAX_DEPTH} levels; nest less deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = _plain(super().compose_scalar_node(anchor))
        if node.tag in (_TAG + "int", _TAG + "float", _TAG + "bool"):
            try:
                value = self.construct_object(node)
            except (ValueError, KeyError):  # "!!int abc", or thousands of digits
                raise _problem(node, f"{short(node.value)} is no number that can be read; give another") from None
            if not (math.isfinite(value) if isinstance(value, float) else abs(value) <= MAX_INT):
                raise _problem(node, f"the number {short(node.value)} is infinite, undefined or too large")
        return node

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        return _plain(super().compose_sequence_node(anchor))

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = _plain(super().compose_mapping_node(anchor))
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag not in self.keys:
                shown = short(key.value) if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise _problem(key, f"the key {shown} is no text; write a name, in quotes if it is a number or null")
            if not key.value:
                raise _problem(key, "a key is empty; give it a name")
            if key.value in seen:
                first = seen[key.value]
                raise _problem(
                    key, f"key '{key.value}' stands twice, on line {first} and line {line}; keep one of them"
                )
            seen[key.value] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Writes merged mappings out: own keys win, then those of the first merged mapping that has the key."""
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag != _TAG + "merge":
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    raise _problem(source, "<< takes a mapping or a list of mappings, e.g. <<: *name")
                self.flatten_mapping(source)
                merged = {pair[0].value: pair for pair in source.value} | merged
        own = {pair[0].value: pair for pair in node.value if pair[0].tag != _TAG + "merge"}
        node.value = list((merged | own).values())


def _plain(node: Any) -> Any:
    if node.tag not in _PLAIN:
        raise _problem(node, f"the tag {short(node.tag.replace(_TAG, '!!'))} is not allowed; write plain values")
    return node


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Returns (nodes, levels) below a node if every alias were written out; refuses a node that contains itself.

    An alias comes after its anchor, so that its node has been measured already: the recursion is as deep as the text.
    """
    if (found := known.get(id(node), (0, 0))) is None:
        raise _problem(node, "an alias stands within what it names, which has no end; write it out")
    if found[0]:
        return found
    known[id(node)] = None
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    below = [part for pair in pairs for part in pair] or (node.value if isinstance(node, yaml.SequenceNode) else [])
    sizes = [_measure(part, known) for part in below]
    total = 1 + sum(nodes for nodes, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
    if total[0] > MAX_NODES or total[1] > MAX_DEPTH:
        raise _problem(node, f"aliases grow it beyond {MAX_NODES} values or {MAX_DEPTH} levels; use fewer")
    known[id(node)] = total
    return total


def _problem(place: Any, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=place.start_mark)
