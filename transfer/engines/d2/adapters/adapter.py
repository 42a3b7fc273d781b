"""What a task needs of the Detectron2 engine beside Detectron2's own model and mapper: predictions and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from fvcore.common.config import CfgNode

from transfer.engines.inputs import TrainingInput


class Adapter(ABC):
    """Between Detectron2's structures and the task's own."""

    @abstractmethod
    def prediction(self, sample: dict[str, Any], output: dict[str, Any]) -> Any:
        """Turns the model's output for a test sample into what the task's evaluator takes."""

    @abstractmethod
    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        """Shows a mapped training sample as plain arrays, for pictures."""
