"""A file's contents as a model: every kind of fault names file, field, value and remedy on one line."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.validation import validate, validate_json
from pretrain.runtime.wording import did_you_mean, short


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Row(Strict):
    name: str
    opts: list[str | int] = []

    @field_validator("name")
    @classmethod
    def check_name(cls, name: str) -> str:
        if "/" in name:
            raise ValueError(f"is '{name}'; leave the slash out")
        return name


class Extra(Strict):
    row: str = ""
    column: str = ""


class Table(Strict):
    rows: list[Row] = Field(min_length=1)
    extras: dict[str, Extra | list[Row] | None] = {}
    kind: Literal["voc", "coco"] = "voc"
    best: dict[str, float] = {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "t.yaml: rows: is missing; add it"),
        ({"rows": [{"name": 3}]}, "t.yaml: rows[0].name: is 3; it should be a valid string"),
        ({"rows": [{"name": "a/b"}]}, "t.yaml: rows[0].name: is 'a/b'; leave the slash out"),
        ({"rows": [{"name": "a", "opt": []}]}, "t.yaml: rows[0].opt: is not known; did you mean opts?"),
        ({"rows": [{"name": "a", "zzzz": []}]}, "t.yaml: rows[0].zzzz: is not known; remove it"),
        (
            {"rows": [{"name": "a", "opts": ["x", None]}]},
            "t.yaml: rows[0].opts[1]: is None; it should be a valid string or be a valid integer",
        ),
        ({"rows": [{"name": "a"}], "kind": "lvis"}, "t.yaml: kind: is 'lvis'; it should be 'voc' or 'coco'"),
        ({"rows": [{"name": "a"}], "best": {"AP": True}}, "t.yaml: best.AP: is True; it should be a valid number"),
        ({"rows": [{"name": "a"}], "best": {1: 2.0}}, "t.yaml: best[1]: is 1; it should be a valid string"),
        ({"rows": [{"name": "a"}], "row": []}, "t.yaml: row: is not known; did you mean rows?"),
        ({"rows": [{"name": "a", "row": 1}]}, "t.yaml: rows[0].row: is not known; remove it"),
        ({"rows": [{"name": "a"}], "opt": []}, "t.yaml: opt: is not known; remove it"),
        ({"rows": 3}, "t.yaml: rows: is 3; it should be a valid list"),
        (3, "t.yaml: is 3; it should be a valid dictionary or instance of Table"),
    ],
)
def test_every_fault_in_words(data: object, message: str) -> None:
    with pytest.raises(ExpectedError) as caught:
        validate(Table, data, "t.yaml", ExpectedError)
    assert str(caught.value) == message


def test_suggestions_in_members_of_a_union() -> None:
    """pydantic says what each member of a union lacks; suggestions are those of each."""
    with pytest.raises(ExpectedError) as caught:
        validate(Table, {"rows": [{"name": "a"}], "extras": {"x": {"rwo": "", "colum": ""}}}, "t", ExpectedError)
    assert "rwo: is not known; did you mean row?" in str(caught.value)
    assert "colum: is not known; did you mean column?" in str(caught.value)


def test_many_faults_on_one_short_line() -> None:
    with pytest.raises(ExpectedError) as caught:
        validate(Table, {"rows": [{"name": ["x\n" * 10**5] * 10**4}] * 1000}, "t.yaml", ExpectedError, "write it anew")
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600 and text.endswith("; and 997 more like these; write it anew")


def test_what_fits_is_the_model() -> None:
    assert validate(Table, {"rows": [{"name": "a"}]}, "t", ExpectedError) == Table(rows=[Row(name="a")])
    assert validate(list[Row], [{"name": "a", "opts": [1, "b"]}], "t", ExpectedError)[0].opts == [1, "b"]


@pytest.mark.parametrize("text", ["{", "", "\0", b"\xff", "[" * 10**5])
def test_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(ExpectedError, match=r"^t\.json: is no JSON \("):
        validate_json(Table, text, "t.json", ExpectedError)


VALUES = {
    "long": 10**5000,
    "low": -(10**5000),
    "text": "a\nb" * 10**5,
    "deep": [[[[[[1]]]]]] * 10**5,
    "bytes": b"\0" * 999,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_any_value_on_one_line(value: object) -> None:
    assert len(short(value)) <= 120 and short(value).isprintable()


def test_nearest_names() -> None:
    assert did_you_mean("SOLVER.LR", {"SOLVER.BASE_LR", "SEED"}) == "; did you mean SOLVER.BASE_LR?"
    assert did_you_mean("LR", {"A.LR", "B.LR"}) == "; did you mean B.LR or A.LR?"
    assert did_you_mean("colour", {"SEED"}) == ""
