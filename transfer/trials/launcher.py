"""Says where a plan's chains run (here, side by side or not, or as a SLURM job array) and what SLURM is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pretrain.runtime.config import ConfigError
from pretrain.runtime.validation import validate

LAUNCHERS = ("local", "slurm")


class SlurmOptions(BaseModel):
    """Declares what `--slurm` takes: submitit's own parameters, and those of sbatch with the prefix `slurm_`."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool]

    timeout_min: int | None = Field(None, ge=1)
    mem_gb: float | None = Field(None, gt=0)
    cpus_per_task: int | None = Field(None, ge=1)
    gpus_per_node: int | None = Field(None, ge=0)
    nodes: int | None = Field(None, ge=1)
    tasks_per_node: int | None = Field(None, ge=1)
    name: str | None = None


@dataclass(frozen=True)
class Launcher:
    """Says where chains run.

    Attributes:
        kind: "local" or "slurm".
        jobs: number of chains side by side; 0 takes as many as there are GPUs for, or as many as SLURM grants.
        per_gpu: number of local chains that share a GPU, for networks that use a fraction of one.
        options: submitit's parameters for SLURM, e.g. {"slurm_partition": "gpu", "timeout_min": 1440}.

    Raises:
        ConfigError: the values do not go together.
    """

    kind: str = "local"
    jobs: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    per_gpu: int = 1

    def __post_init__(self) -> None:
        if self.kind not in LAUNCHERS:
            raise ConfigError(f"--launcher {self.kind}: choose {' or '.join(LAUNCHERS)}")
        if self.jobs < 0:
            raise ConfigError(f"--jobs {self.jobs}: give the number of trials to run side by side")
        if self.options and self.kind == "local":
            raise ConfigError(f"--slurm {', '.join(self.options)}: options for SLURM need --launcher slurm")
        if self.per_gpu < 1:
            raise ConfigError(f"--jobs-per-gpu {self.per_gpu}: give the number of trials that share a GPU, 1 or more")
        if self.per_gpu > 1 and self.kind == "slurm":
            raise ConfigError(f"--jobs-per-gpu {self.per_gpu}: SLURM gives every job GPUs of its own; leave it out")


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Turns KEY=VALUE words into submitit's parameters; names that are not its own get sbatch's prefix `slurm_`.

    Raises:
        ConfigError: a word has no `=`, or a value is of the wrong type.
    """
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--slurm {word}: give KEY=VALUE, e.g. partition=gpu timeout_min=1440")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # ValueError: also thousands of digits
            value = text
        options[key if key in SlurmOptions.model_fields or key.startswith("slurm_") else f"slurm_{key}"] = value
    validate(SlurmOptions, options, "--slurm", ConfigError)
    return options
