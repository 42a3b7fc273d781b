"""Which values fit where a default stands, down to the elements of lists, from YAML and from a command line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.fit import MAX_INT, fitted

DEFAULTS: dict[str, Any] = {
    "bool": False, "int": 3, "float": 0.5, "str": "a", "none": None, "ints": (1, 2), "floats": [0.5, 1.0],
    "bools": [False], "strs": ("a",), "nested": [[0.5], [1.0]], "empty": (),
}  # fmt: skip

ACCEPTED: list[tuple[str, Any, Any]] = [
    ("bool", True, True), ("bool", "True", True), ("int", 5, 5), ("int", "-5", -5), ("int", MAX_INT, MAX_INT),
    ("float", 2, 2.0), ("float", "1e-3", 1e-3), ("float", "2", 2.0), ("str", "", ""), ("str", "123", "123"),
    ("str", "''", ""), ("str", "'a b'", "a b"), ("str", "(1,)", "(1,)"), ("str", "None", "None"), ("str", "ü", "ü"),
    ("none", None, None), ("none", 0.1, 0.1), ("none", "None", None), ("ints", [3], (3,)), ("ints", "(3, 4)", (3, 4)),
    ("ints", [], ()), ("floats", (1, 2.5), [1, 2.5]), ("floats", "[1, 2]", [1, 2]), ("strs", ["b", "1"], ("b", "1")),
    ("nested", [[1], (2.5, 3)], [[1], (2.5, 3)]), ("empty", ["a", 1, [0.5, "b"]], ("a", 1, [0.5, "b"])),
]  # fmt: skip

REFUSED: list[tuple[str, Any, str]] = [
    ("bool", 1, "K is 1; give True or False"), ("bool", "yes", "K is 'yes'; give True or False"),
    ("bool", None, "K is None"), ("int", True, "K is True; give a whole number, e.g. 3"), ("int", None, "K is None;"),
    ("int", "1e5", "K is 100000.0; give a whole number, e.g. 100000"), ("int", 1.5, "K is 1.5; give a whole number"),
    ("int", float("inf"), "K is inf; give a whole number"), ("int", 2**63, f"between -{MAX_INT} and {MAX_INT}"),
    ("int", "9" * 5000, "give a whole number"), ("int", [1], r"K is \[1\]; give a whole number"),
    ("float", float("nan"), "K is nan; give a finite number"), ("float", "1e400", "K is inf; give a finite"),
    ("float", "nan", "K is 'nan'; give a number"), ("float", 10**400, "K is 0x.*; give a number between"),
    ("float", False, "K is False; give a number, e.g. 0.5"), ("float", "1+2j", r"K is \(1\+2j\); give a number"),
    ("str", 5, "K is 5; give text, in quotes"), ("str", None, "K is None; give text"), ("str", "a\0b", "delete them"),
    ("str", "a\nb", "delete them"), ("str", "'a\\x1b'", "delete them"), ("str", "\udcff", "delete them"),
    ("none", "a", "K is 'a'; give a number, or None"), ("none", True, "K is True; give a number, or None"),
    ("ints", ["1e1", 2], r"K\[0\] is '1e1'; give a whole number"), ("ints", 3, "K is 3; give a list, e.g. .1, 2."),
    ("ints", [1, None], r"K\[1\] is None"), ("ints", [1.5], r"K\[0\] is 1.5"), ("ints", {"a": 1}, "give a list"),
    ("ints", "abc", "K is 'abc'; give a list"), ("ints", [[1]], r"K\[0\] is \[1\]; give a whole number"),
    ("floats", [1, "2"], r"K\[1\] is '2'; give a number"), ("floats", [float("nan")], r"K\[0\] is nan; give a fini"),
    ("bools", [0], r"K\[0\] is 0; give True"), ("strs", [1], r"K\[0\] is 1; give text"), ("strs", "a", "give a list"),
    ("strs", ["a\0"], r"K\[0\] is 'a.x00'"), ("nested", [1], r"K\[0\] is 1; give a list"),
    ("nested", [[1], ["2"]], r"K\[1\]\[0\] is '2'; give a number"), ("empty", [{}], r"K\[0\] is {}; give text, a n"),
    ("empty", "[b'1']", r"K\[0\] is b'1'"), ("empty", [None], r"K\[0\] is None"),
    ("empty", [float("inf")], r"K\[0\] is inf; give a finite number"), ("empty", [[[[[[1]]]]]], "too many lists"),
    ("float", "(" * 10**5, r"give a number"), ("float", "-" * 99999, "give a number"), ("ints", "[" * 999, "give a li"),
    ("int", "x" * 10**6, "give a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_what_fits(name: str, value: Any, expected: Any) -> None:
    got = fitted(value, DEFAULTS[name], "K", "a.yaml")
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        fitted(value, DEFAULTS[name], "K", "a.yaml")
    text = str(caught.value)
    assert text.startswith("a.yaml: K") and "\n" not in text and len(text) < 300


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(ANYTHING, st.sampled_from(sorted(DEFAULTS)))
def test_anything_fits_or_is_refused_in_words(value: Any, name: str) -> None:
    try:
        got = fitted(value, DEFAULTS[name], "K", "a.yaml")
    except ConfigError as error:
        assert str(error).isprintable()
    else:
        assert type(got) is type(DEFAULTS[name]) or DEFAULTS[name] is None


@given(st.text(max_size=40))
def test_any_word_of_a_command_line(word: str) -> None:
    for default in DEFAULTS.values():
        try:
            fitted(word, default, "K", "command line")
        except ConfigError as error:
            assert "\n" not in str(error)
