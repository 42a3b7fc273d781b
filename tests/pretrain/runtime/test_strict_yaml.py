"""What a YAML file may hold: everything else is refused with the file, the line where there is one, and quickly."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.strict_yaml import MAX_BYTES, load_yaml


def laughs(levels: int, first: str = "[lol, lol]") -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


def chain(levels: int) -> str:
    return "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, levels))])


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "twice": ("a: 1\nb: 2\na: 3", "line 3: key 'a' stands twice, on line 1 and line 3; keep one of them"),
    "merged_twice": ("b: &b {x: 1}\na:\n  <<: *b\n  <<: *b", "line 4: key '<<' stands twice"),
    "int_key": ("a: 1\n1: 2", "line 2: the key '1' is no text"),
    "null_key": ("null: 2", "line 1: the key 'null' is no text"),
    "no_key": ("no: 2", "the key 'no' is no text"),
    "date_key_is_text": ("2001-12-14: 1\n2001-12-14: 2", "key '2001-12-14' stands twice"),
    "empty_key": ("'': 2", "line 1: a key is empty"),
    "list_key": ("? [a, b]\n: 1", "the key a sequence is no text"),
    "map_key": ("{a: 1}: 1", "the key a mapping is no text"),
    "merge_of_text": ("a: {<<: b}", "line 1: << takes a mapping or a list of mappings"),
    "python": ("a: !!python/object/apply:os.system ['true']", "line 1: the tag '!!python/object/apply:os.system' is"),
    "python_name": ("\na: !!python/name:os.system", "line 2: the tag"),
    "own_tag": ("a: !mine 1", "line 1: the tag '!mine' is not allowed"),
    "binary": ("a: !!binary aGVsbG8=", "line 1: the tag '!!binary' is not allowed"),
    "timestamp": ("a: !!timestamp 2001-12-14", "line 1: the tag '!!timestamp' is not allowed"),
    "set": ("a: !!set {b, c}", "line 1: the tag '!!set' is not allowed"),
    "no_int": ("a: !!int abc", "line 1: 'abc' is no number that can be read"),
    "no_bool": ("a: !!bool abc", "line 1: 'abc' is no number that can be read"),
    "long_int": ("a: " + "9" * 5000, "line 1: '9+...9+' is no number that can be read"),
    "large_int": ("a: 9223372036854775808", "line 1: the number '9223372036854775808' is infinite, undefined or too"),
    "nan": ("a: [1, .nan]", "line 1: the number '.nan' is infinite"),
    "inf": ("a: -.inf", "line 1: the number '-.inf' is infinite"),
    "overflow": ("a: 1.0e+400", "line 1: the number '1.0e.400' is infinite"),
    "two_documents": ("a: 1\n---\nb: 2", "line 2: but found another document"),
    "tab": ("a: 1\n\tb: 2", r"line 2: found character '.t' that cannot start any token"),
    "open": ("a: [1\n", "line 2: "),
    "no_anchor": ("a: *b", "line 1: found undefined alias 'b'"),
    "text": ("hello", "holds 'hello', not a mapping of keys to values"),
    "list": ("- a", r"holds \['a'\], not a mapping"),
    "own_alias": ("a: &a {b: *a}", "line 1: an alias stands within what it names"),
    "own_alias_in_list": ("a: &a [1, [*a]]", "line 1: an alias stands within what it names"),
    "own_merge": ("a: &a {<<: *a}", "line 1: an alias stands within what it names"),
    "laughs": (laughs(12), "line 6: aliases grow it beyond 100000 values"),
    "laughs_of_merges": (merges(12), "aliases grow it beyond"),
    "laughs_in_depth": (chain(2000), "line 50: aliases grow it beyond"),
    "deep": ("a: " + "[" * 100000, "line 1: there are more than 50 levels"),
    "deep_maps": ("{a: " * 5000, "line 1: there are more than 50 levels"),
    "deep_keys": ("? " * 5000, "line 1: there are more than 50 levels"),
    "nul": ("a: b\0c", r"line 1: the character '\\x00' cannot be in YAML"),
    "control": ("a: 1\nb: x\x07y", r"line 2: the character '\\x07' cannot be in YAML"),
    "latin1": ("a: 1\nb: café".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "utf16": ("a: 1".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "huge": (b"a: " + b"b" * MAX_BYTES, f"has {MAX_BYTES + 3} bytes, a config {MAX_BYTES} at most"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < len(str(path)) + 250
    assert time.monotonic() - before < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 2001-12-14\nb: 2001-13-45", {"a": "2001-12-14", "b": "2001-13-45"}),
        ("a: [1, 0.5, x, true, null, '1', {b: c}]", {"a": [1, 0.5, "x", True, None, "1", {"b": "c"}]}),
        ("a: &a [1]\nb: *a\nc: *a", {"a": [1], "b": [1], "c": [1]}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [*a, {z: 5}]}",
         {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 4, "z": 5}}),
        ("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}", {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}}),
        ("'1': a\n'null': b\n'=': c\nü: é", {"1": "a", "null": "b", "=": "c", "ü": "é"}),
        ("a: =\nb: !!str 5\nc: '\\n'", {"a": "=", "b": "5", "c": "\\n"}),
    ],
)  # fmt: skip
def test_what_is_read(text: str, expected: object, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_yaml(path) == expected


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("a: 1")
    for path, message in (
        ("/dev/zero", "'/dev/zero' is no regular file; give a YAML file"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path, "is no regular file"),
        (tmp_path / "gone.yaml", "gone.yaml' does not exist; check the path"),
        (tmp_path / "file" / "x.yaml", "x.yaml' does not exist; check the path"),
        (tmp_path / "loop", "cannot be read .Too many levels of symbolic links.; check the path"),
        ("a\0b", "config file 'a.x00b' cannot be read ..*embedded null "),
        ("a" * 5000, "cannot be read .File name too long."),
    ):
        with pytest.raises(ConfigError, match=message):
            load_yaml(path)
