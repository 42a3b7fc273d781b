"""Defines what a task adds to the torchvision engine: its network, its samples and its predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import Dataset as Samples

from pretrain.runtime.errors import ConfigError
from transfer.config.support import Support
from transfer.data.dataset import Dataset
from transfer.data.records import PackedRecords
from transfer.engines.training_input import TrainingInput
from transfer.engines.tv.mapper import Augmented
from transfer.engines.tv.serving.networks import Served


class Adapter(ABC):
    """Reads the config on a task's behalf; the engine's core sees only modules and samples."""

    support: ClassVar[Mapping[str, Support]] = MappingProxyType({})
    """What the engine does with the config keys of this task, where that is not what `config.support.TABLE` says."""
    parts: ClassVar[Mapping[str, Collection[str]]] = MappingProxyType({})
    """Names that may stand in a config beside those of `config.lint.NAMES`: key -> names."""

    @abstractmethod
    def build(self, cfg: CfgNode, device: str) -> nn.Module:
        """Builds the network, randomly initialised, on the CPU.

        It takes a list of samples; in training it returns losses by name, in evaluation one output per sample.

        Args:
            cfg: config with the kinds of norm that run (see `resolve.norms`).
            device: device on which the network will run.
        """

    @abstractmethod
    def train_samples(self, cfg: CfgNode, datasets: Sequence[Dataset], seed: int) -> Augmented:
        """Makes the training set as the config augments it."""

    @abstractmethod
    def test_samples(self, cfg: CfgNode, records: PackedRecords) -> Samples[dict[str, Any]]:
        """Makes the samples of test images, in order."""

    @abstractmethod
    def prediction(self, sample: dict[str, Any], output: Any) -> Any:
        """Turns the network's output for a test sample into what the task's evaluator takes."""

    def served(self, cfg: CfgNode, model: nn.Module) -> Served:
        """Turns a network that `build` made into its exported form, which takes one image and gives plain tensors.

        Raises:
            ConfigError: this task's networks cannot be exported.
        """
        raise ConfigError(f"a {type(model).__name__} is not exported; detectors of boxes, and segmentors, are")

    @abstractmethod
    def training_input(self, cfg: CfgNode, record: dict[str, Any], sample: dict[str, Any]) -> TrainingInput:
        """Shows a training sample as plain arrays, for pictures."""
