"""What is predicted: one table of tasks, a module per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.tasks.densepose import DENSEPOSE
from transfer.tasks.instances import INSTANCES
from transfer.tasks.keypoints import KEYPOINTS
from transfer.tasks.semantic import SEMANTIC
from transfer.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (INSTANCES, KEYPOINTS, DENSEPOSE, SEMANTIC)}


def task_of(cfg: Mapping[str, Any]) -> Task | None:
    """Returns the task that a config is of; None if no task of the table is."""
    return next((task for task in TASKS.values() if task.applies(cfg)), None)
