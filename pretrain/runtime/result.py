"""Stores the result of a run as a file, which later stages read instead of the screen."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pretrain.runtime import checkpoint
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.files import RECORD_BYTES, read_regular
from pretrain.runtime.validation import in_words, validate_json

FILE_NAME = "result.json"

# JSON has no NaN: an undefined number is written as null.
Metric = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class _Scored(BaseModel):
    """Checks the part of a test set's `extra` that is read again."""

    model_config = ConfigDict(strict=True, extra="allow")

    protocol: str | None = None
    per_class: dict[str, dict[str, float | None]] = {}
    undefined: dict[str, str] = {}


class _Made(BaseModel):
    """Checks the part of `provenance` that is read again."""

    model_config = ConfigDict(strict=True, extra="allow")

    computed_on: str | None = None
    processes: Annotated[int, Field(ge=0)] | None = None
    packages: dict[str, str | None] = {}
    peak_memory_gb: dict[str, float] = {}


def _checked(kind: type[BaseModel]) -> AfterValidator:
    """Returns a validator that leaves a dict as it is, and refuses one that does not fit the model."""

    def check(value: Any) -> Any:
        if isinstance(value, dict):
            try:
                kind.model_validate(value)
            except ValidationError as error:
                raise ValueError(in_words(error, kind)) from None
        return value

    return AfterValidator(check)


class ResultError(ExpectedError, ValueError):
    """A file that is not the result of a run; the message names the field."""


@dataclass
class RunResult:
    """Holds the result of one finished run.

    Attributes:
        kind: "pretrain", "linear", "finetune", "knn", "train" or "evaluate".
        engine: "pretrain", "detectron2" or "torchvision".
        seed: the trial's seed.
        config_digest: digest of the config without seed, paths and device (equal over the trials of a row).
        weights_sha256: hash of the initial weights, None for random initialisation.
        metrics: flat, e.g. `{"bbox/AP50": 81.5}`; percent for AP, as the papers print them.
        iterations: number of optimizer steps done.
        seconds: wall time; the torchvision engine and pre-training add that of earlier, killed processes.
        notes: decisions a reader must know (norm kinds resolved, device taken, images skipped).
        artifacts: role -> path relative to the run's folder.
        inputs: input -> digest: SHA-256 of files, digests of listings of data and of the config.
        provenance: see `provenance.environment`.
        extra: anything else worth keeping (per-class tables, conversion proof).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")  # of a file that is read

    kind: str
    engine: str
    seed: int
    config_digest: str
    weights_sha256: str | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    iterations: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0, le=1e10)] = 0.0  # centuries: a sum of them is a number
    notes: list[str] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    provenance: Annotated[dict[str, Any], _checked(_Made)] = field(default_factory=dict)
    extra: dict[str, Annotated[Any, _checked(_Scored)]] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        path = Path(folder) / FILE_NAME
        checkpoint.save_json(_without_nan(dataclasses.asdict(self)), path)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> RunResult:
        """Reads `folder/result.json`.

        Raises:
            FileNotFoundError: there is no such file.
            ResultError: the file is damaged, or a field has the wrong type, is missing or is not known.
        """
        path = Path(folder) / FILE_NAME
        what = f"'{path}' is not a result of this version"
        return validate_json(cls, read_regular(path, RECORD_BYTES), what, ResultError, "delete it and run again")


def named_inputs(**digests: str | None) -> dict[str, str]:
    """Returns the digests of what a run read, by name; leaves out what it did not read (None)."""
    return {name: digest for name, digest in digests.items() if digest is not None}


def _without_nan(value: Any) -> Any:
    """Returns the value with null in place of every number that is undefined or infinite."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
