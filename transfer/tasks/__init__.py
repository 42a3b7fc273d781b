"""Defines what is predicted: a table of tasks, with a module for each."""

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
    """Returns the task of a config, or None if none in the table applies to it."""
    return next((task for task in TASKS.values() if task.applies(cfg)), None)
