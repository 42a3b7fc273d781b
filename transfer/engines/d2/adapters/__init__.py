"""Lists the tasks that the Detectron2 engine can do, in one table with a module per task."""

from __future__ import annotations

from pretrain.runtime.config import ConfigError
from transfer.engines.d2.adapters.adapter import Adapter
from transfer.engines.d2.adapters.densepose import DensePoseAdapter
from transfer.engines.d2.adapters.instances import InstancesAdapter
from transfer.engines.d2.adapters.keypoints import KeypointsAdapter
from transfer.engines.d2.adapters.semantic import SemanticAdapter

ADAPTERS: dict[str, Adapter] = {
    "instances": InstancesAdapter(),
    "keypoints": KeypointsAdapter(),
    "densepose": DensePoseAdapter(),
    "semantic": SemanticAdapter(),
}


def adapter_of(task: str) -> Adapter:
    """Returns the adapter of a task.

    Raises:
        ConfigError: the engine has no adapter for this task.
    """
    if task not in ADAPTERS:
        raise ConfigError(f"the Detectron2 engine does not do the task '{task}'; use --engine torchvision")
    return ADAPTERS[task]
