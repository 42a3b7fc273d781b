"""What the comments of a defaults file say of its keys, read from its source.

A key's comment stands behind its value, or on lines of their own right above it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path


def comments(path: Path, roots: dict[str, str]) -> dict[str, str]:
    """Returns dotted key -> comment, of branches too; keys without one are left out.

    Args:
        roots: names in the file -> the key that they stand for, "" for the tree itself. A name may be assigned a dict,
            or have its attributes assigned to.
    """
    text = path.read_text(encoding="utf-8")
    behind, above = _lines(text)
    found: dict[str, str] = {}
    for key, first, last in _keys(ast.parse(text), roots):
        said = behind.get(last) or behind.get(first) or " ".join(_block(above, first - 1))
        if said:
            found[key] = said
    return found


def _lines(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Line -> comment, of those behind code and of those that have the line to themselves."""
    behind, above = dict[int, str](), dict[int, str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            (above if alone else behind)[token.start[0]] = token.string.lstrip("#").strip()
    return behind, above


def _block(above: dict[int, str], line: int) -> list[str]:
    """The comment lines that end at a line."""
    return [*_block(above, line - 1), above[line]] if line in above else []


def _keys(tree: ast.AST, roots: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """(dotted key, first line, last line) of everything that the file assigns; of a dict its first line counts."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name, *parts = re.split(r"\.", ast.unparse(target))
            if name in roots:
                key = ".".join(filter(None, [roots[name], *parts]))
                if isinstance(node.value, ast.Dict):
                    yield from _within(node.value, key)
                elif parts:
                    yield key, node.lineno, node.end_lineno or node.lineno


def _within(tree: ast.Dict, prefix: str) -> Iterator[tuple[str, int, int]]:
    for key, value in zip(tree.keys, tree.values, strict=True):
        if not isinstance(key, ast.Constant):
            continue
        name = ".".join(filter(None, [prefix, str(key.value)]))
        if isinstance(value, ast.Dict):
            yield name, key.lineno, key.lineno
            yield from _within(value, name)
        else:
            yield name, key.lineno, value.end_lineno or value.lineno
