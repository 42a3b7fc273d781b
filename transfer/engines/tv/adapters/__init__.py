"""Lists the tasks that the torchvision engine can do, in one table with a module per task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pretrain.runtime.config import ConfigError
from transfer.config import support
from transfer.config.basic_blocks import check_basic_blocks
from transfer.config.lint import NAMES
from transfer.engines.tv.adapters.adapter import Adapter
from transfer.engines.tv.adapters.instances import InstancesAdapter
from transfer.engines.tv.adapters.keypoints import KeypointsAdapter
from transfer.engines.tv.adapters.semantic import SemanticAdapter
from transfer.tasks import task_of

ADAPTERS: dict[str, Adapter] = {
    "instances": InstancesAdapter(),
    "keypoints": KeypointsAdapter(),
    "semantic": SemanticAdapter(),
}


def adapter_of(task: str) -> Adapter:
    """Returns the adapter of a task.

    Raises:
        ConfigError: the engine has no adapter for this task.
    """
    if task not in ADAPTERS:
        raise ConfigError(f"the torchvision engine does not do the task '{task}'; use --engine detectron2")
    return ADAPTERS[task]


def check_support(cfg: Mapping[str, Any]) -> list[str]:
    """Checks a config against what this engine supports; see `transfer.config.support.check`."""
    check_basic_blocks(cfg)
    task = task_of(cfg)
    return support.check(cfg, {} if task is None else adapter_of(task.name).support)


def part_names() -> Mapping[str, Collection[str]]:
    """Returns for each key the names that it may have, those of all tasks together."""
    names = {key: tuple(known) for key, known in NAMES.items()}
    for adapter in ADAPTERS.values():
        for key, more in adapter.parts.items():
            names[key] = (*names.get(key, ()), *more)
    return names
