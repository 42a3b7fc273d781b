"""Hostile files by number: special ones in the place of a valid one, then valid ones that are changed."""

from __future__ import annotations

import json
import os
import pickle
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.catalogue import BYTES, NAMES, VALUES, Call


def write(path: Path, kind: str, valid: bytes, number: int, canary: Path) -> str:
    """Puts hostile file `number` of a kind in the place of a valid one; returns what it is, in a word."""
    rng = random.Random(f"{kind} {path.name} {number}")
    catalogue = [*_PLACES, *BYTES[kind](canary)]
    if path.is_dir() and not path.is_symlink():
        os.rmdir(path)
    path.unlink(missing_ok=True)
    if number < len(catalogue):
        special = catalogue[number]
        if callable(special):
            special(path)
            return special.__name__
        path.write_bytes(special)
        return f"special {number}"
    structured = _STRUCTURED.get(kind)
    if structured is not None and rng.random() < 0.7:
        path.write_bytes(structured(rng, valid))
        return "changed value"
    path.write_bytes(_damaged(rng, valid, canary))
    return "changed bytes"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path.name)
    os.chdir(here)


def sealed(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


_PLACES: list[Callable[[Path], None]] = [pipe, endless, dangling, loop, folder, listening, sealed]


def _damaged(rng: random.Random, valid: bytes, canary: Path) -> bytes:
    """Bytes with something flipped, cut, doubled, or put into them."""
    data = bytearray(valid)
    for _ in range(rng.choice([1, 1, 2, 8])):
        size = max(len(data), 1)
        at = rng.choice([rng.randrange(size), rng.randrange(min(size, 400)), size - 1 - rng.randrange(min(size, 400))])
        n = rng.choice([1, 4, 60, 1000])
        how = rng.choice(["flip", "flip", "cut", "drop", "double", "name", "zero", "pickle"])
        if how == "flip" and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del data[at:]
        elif how == "drop":
            del data[at : at + n]
        elif how == "double":
            data[at:at] = data[at : at + n]
        elif how == "name":
            data[at:at] = rng.choice(NAMES).encode("utf-8", "surrogatepass")
        elif how == "zero":
            data[at : at + n] = bytes(n)
        else:
            data[at : at + n] = pickle.dumps(Call(os.mkdir, str(canary)), protocol=rng.randrange(5))
    return bytes(data)


def _replaced(rng: random.Random, value: Any) -> Any:
    """A tree of lists and dicts in which a value, a key or a whole branch is another."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        items = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        for key, child in items:
            places.append((node, key))
            collect(child)

    collect(value)
    if not places:
        return rng.choice(VALUES)
    for _ in range(rng.choice([1, 1, 1, 3])):
        node, key = rng.choice(places)
        how = rng.choice(["value", "value", "value", "delete", "key", "double"])
        try:
            if how == "value":
                node[key] = rng.choice(VALUES)
            elif how == "delete":
                del node[key]
            elif isinstance(node, dict):
                node[rng.choice(NAMES)] = node.pop(key) if how == "key" else node[key]
            else:
                node.append(node[key])
        except (KeyError, IndexError):  # an earlier change has taken it
            continue
    return value


def _changed_json(rng: random.Random, valid: bytes) -> bytes:
    lines = valid.splitlines()
    if valid.startswith(b'{"iteration"') and len(lines) > 1:  # a line each
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(_replaced(rng, json.loads(lines[at]))).encode()
        return b"\n".join(lines) + b"\n"
    return json.dumps(_replaced(rng, json.loads(valid))).encode()


def _changed_yaml(rng: random.Random, valid: bytes) -> bytes:
    data = _replaced(rng, yaml.safe_load(valid))
    return (json.dumps(data) if rng.random() < 0.5 else yaml.safe_dump(data, allow_unicode=True)).encode(
        "utf-8", "surrogatepass"
    )


def _changed_list(rng: random.Random, valid: bytes) -> bytes:
    lines = valid.splitlines() or [b""]
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(NAMES).encode("utf-8", "surrogatepass"))
    return b"\n".join(lines) + b"\n"


_STRUCTURED: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "json": _changed_json,
    "yaml": _changed_yaml,
    "list": _changed_list,
}
