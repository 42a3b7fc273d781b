"""The result of a run, as a file: what later stages read instead of the screen."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime import checkpoint

FILE_NAME = "result.json"


@dataclass
class RunResult:
    """One finished run.

    Attributes:
        kind: "pretrain", "linear", "knn", "train" or "evaluate".
        engine: "pretrain", "detectron2" or "torchvision".
        seed: the trial's seed.
        config_digest: digest of the config without seed, paths and device (equal over the trials of a row).
        weights_sha256: hash of the initial weights, None for random initialisation.
        metrics: flat, e.g. `{"bbox/AP50": 81.5}`; percent for AP, as the papers print them.
        iterations: optimizer steps done.
        seconds: wall time; the torchvision engine and pre-training add that of killed processes before.
        notes: decisions a reader must know (norm kinds resolved, device taken, images skipped).
        artifacts: role -> path relative to the run's folder.
        provenance: see `provenance.environment`.
        extra: anything else worth keeping (per-class tables, conversion proof).
    """

    kind: str
    engine: str
    seed: int
    config_digest: str
    weights_sha256: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    iterations: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        path = Path(folder) / FILE_NAME
        checkpoint.save_json(_without_nan(dataclasses.asdict(self)), path)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> RunResult:
        """Reads `folder/result.json`; raises FileNotFoundError or ValueError naming the file."""
        path = Path(folder) / FILE_NAME
        try:
            result = cls(**json.loads(path.read_text()))
            result.metrics = {k: math.nan if v is None else v for k, v in result.metrics.items()}
            return result
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"'{path}' is not a result of this version ({error}); delete it and run again") from error


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: an undefined number is written as null."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
