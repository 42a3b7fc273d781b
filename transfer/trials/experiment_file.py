"""Declares what an experiment file may contain, typed to the leaf; `experiment` interprets it.

There are two forms: `OneColumn` has `transfer` or `probe` at the top, `Columns` has several of them under `columns`. A
value of another type, an unknown key or a number that is not finite is an error that gives the place and the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pretrain.runtime.config import ConfigError
from pretrain.runtime.validation import validate
from pretrain.runtime.wording import did_you_mean, short, visible
from transfer.data.generated import Parameters

FAIL: Literal["fail"] = "fail"
"""A published result that is no number: the authors' training failed."""
MOST_TRIALS = 1000


def _words(value: Any) -> tuple[str, ...]:
    """Turns `[KEY, VALUE, ...]` into words. Values are scalars or flat lists, which configs read as literals."""
    if not isinstance(value, list) or len(value) % 2:
        raise ValueError(f"is {short(value)}; give a list KEY, VALUE, KEY, VALUE, ...")
    for key, word in zip(value[::2], value[1::2], strict=True):
        if not isinstance(key, str) or not key:
            raise ValueError(f"give a list KEY, VALUE, ...; the key {short(key)} is no text")
        if not all(isinstance(v, str | int | float) for v in (word if isinstance(word, list) else [word])):
            raise ValueError(f"the value of {short(key)} is {short(word)}; give text, a number or a list of them")
    return tuple(map(str, value))


def _printable(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; give some text")
    if "\n" in text or "\t" in text or visible(text) != text:
        raise ValueError(f"{short(text)} holds control characters; leave them out")
    return text


def _number_or_fail(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != FAIL and not (number and math.isfinite(value)):
        raise ValueError(f"is {short(value)}; give the published number, or {FAIL}")
    return float(value) if number else value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{8,64}", value):
        raise ValueError(
            f"{short(value)} is no SHA-256; give the file's in lower-case hex, or its first 8 digits or more, in "
            "quotation marks"
        )
    return value


Text = Annotated[str, AfterValidator(_printable)]
Opts = Annotated[tuple[str, ...], BeforeValidator(_words)]
Value = Annotated[float | Literal["fail"], BeforeValidator(_number_or_fail)]
Values = dict[Text, Value]
Trials = Annotated[int, Field(ge=1, le=MOST_TRIALS)]
Metrics = Annotated[list[Text], Field(min_length=1)]


class Strict(BaseModel):
    """Allows neither type conversions nor unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CostModel(Strict):
    gpu_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: Text


class JobModel(Strict):
    """Holds a job's keys; `config` is relative to the experiment file, or configs/... for an installed one."""

    config: Text
    opts: Opts = ()
    cost: CostModel | None = None


class ProbeModel(Strict):
    protocol: Literal["knn", "linear", "finetune"]
    config: Text = ""
    opts: Opts = ()

    @model_validator(mode="after")
    def _config(self) -> ProbeModel:
        if (self.protocol != "knn") != bool(self.config):
            raise ValueError("the protocols linear and finetune need a config, knn has none")
        return self


class WeightsModel(Strict):
    pretrain: Text = ""
    file: Text = ""
    get: Text = ""
    sha256: Annotated[str, BeforeValidator(_sha256)] = ""
    cost: CostModel | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if ("pretrain" in data) == ("file" in data):
                raise ValueError("give either `pretrain` or `file`, or null for random initialisation")
            if "pretrain" in data and "cost" in data:
                raise ValueError(f"the cost stands with the pre-training {short(data['pretrain'])}")
            if "pretrain" in data and "sha256" in data:
                raise ValueError("sha256 is of a `file`; a pre-training's checkpoint is made here")
        return data


class Override(Strict):
    """Holds what a row sets for itself in a column."""

    config: Text = ""
    opts: Opts = ()


class _Row(Strict):
    name: Text
    weights: WeightsModel | None = None

    @property
    def runs(self) -> bool:
        """Returns whether the row is run, since its weights are given, if only as null; else it is published only."""
        return "weights" in self.model_fields_set


def _check_published_only(row: _Row, published: bool, run: bool) -> None:
    """Refuses a row without weights that is not published, or that says how it is run (`run`)."""
    if not row.runs and (run or not published):
        raise ValueError(
            "'weights' is missing; a row without them is published only, and has but a name and `published`"
        )


class PlainRow(_Row):
    published: Values = {}
    config: Text = ""
    opts: Opts = ()

    @model_validator(mode="after")
    def _something(self) -> PlainRow:
        _check_published_only(self, bool(self.published), bool(self.config or self.opts))
        return self


class ColumnsRow(_Row):
    """Holds a row's keys; `columns` has overrides by column, or null where the row is not run."""

    published: dict[Text, Values] = {}
    columns: dict[Text, Override | None] = {}

    @model_validator(mode="after")
    def _something(self) -> ColumnsRow:
        _check_published_only(self, any(self.published.values()), bool(self.columns))
        return self


class _Evaluated(Strict):
    """Says what is done with the rows' weights, how often, and which of its numbers are shown."""

    transfer: JobModel | None = None
    probe: ProbeModel | None = None
    trials: Trials = 5
    metrics: Metrics = []
    source: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _either(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if ("transfer" in data) == ("probe" in data):
                raise ValueError("give either `transfer` or `probe`")
            if empty := [key for key in ("transfer", "probe") if key in data and data[key] is None]:
                raise ValueError(f"{empty[0]} is empty (null); fill it in, or leave the key out")
        return data


class ColumnModel(_Evaluated):
    """Holds a column's keys; with `anew` every seed of a probe pre-trains anew instead of sharing one pre-training."""

    anew: bool = False


def _parameters(values: Any) -> Any:
    """Turns options of datasets/prepare_generated.py into what its own parameters take."""
    for key, value in values.items() if isinstance(values, dict) else ():
        if key == "palette":
            continue
        whole = [type(v) is int for v in (value if isinstance(value, list) else [value])]
        if not all(whole) or len(whole) != (2 if str(key).endswith("_size") else 1):
            raise ValueError(f"{short(key)} is {short(value)}; give a whole number, of a size [width, height]")
    if isinstance(values, dict):
        known = [field.name for field in fields(Parameters)]
        if unknown := [key for key in values if key not in known]:
            raise ValueError(f"unknown key {short(unknown[0])}{did_you_mean(str(unknown[0]), known)}")
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        Parameters(**sizes)
    return values


class DataModel(Strict):
    """Holds the keys of `data`; `generated` has options of datasets/prepare_generated.py."""

    generated: Annotated[dict[str, int | str | list[int]] | None, BeforeValidator(_parameters)]


class FindingModel(Strict):
    """Holds what the rows should show: that `row` is above `than` in `metric`, with the paper that says so.

    `than` may be in another column than `row`, as for the same row under a longer schedule.
    """

    claim: Text
    source: Text
    row: Text
    than: Text
    metric: Text
    column: Text = ""
    than_column: Text = ""
    unless: Text = ""

    @model_validator(mode="after")
    def _two(self) -> FindingModel:
        if self.row == self.than and self.than_column in ("", self.column):
            raise ValueError(f"row and than are both {short(self.row)}; a finding compares two rows")
        return self


class _Shared(Strict):
    title: Text
    output: Text = ""
    data: DataModel = DataModel(generated=None)
    pretrain: dict[Text, JobModel] = {}
    findings: list[FindingModel] = []
    remark: Text = ""


class OneColumn(_Shared, _Evaluated):
    rows: Annotated[list[PlainRow], Field(min_length=1)]


class Columns(_Shared):
    source: Text = ""
    columns: Annotated[dict[Text, ColumnModel], Field(min_length=1)]
    rows: Annotated[list[ColumnsRow], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _within(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if outside := [key for key in ("transfer", "probe", "trials", "metrics") if key in data]:
                raise ValueError(f"{outside[0]} stands beside `columns`; it belongs into each of them")
        return data


def parse(data: Mapping[str, Any], path: object) -> OneColumn | Columns:
    """Checks the content of the file `path` and returns it.

    Raises:
        ConfigError: the content has a fault, which the message says in one line.
    """
    if "columns" in data:
        return validate(Columns, data, path, ConfigError)
    return validate(OneColumn, data, path, ConfigError)
