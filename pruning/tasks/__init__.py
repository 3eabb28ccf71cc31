"""Tasks: named, seeded sources of prompt pairs with train, validation and test splits.

First step of the flow. One file per task family; `registry` knows them, `loading` makes the splits.
"""

from __future__ import annotations

from pruning.tasks.context import TaskContext
from pruning.tasks.describing import TaskDescription, describe_tasks
from pruning.tasks.loading import TaskData, load_task, task_from_pairs
from pruning.tasks.registry import Task, get_task, register_task, task_names

__all__ = [
    "Task",
    "TaskContext",
    "TaskData",
    "TaskDescription",
    "describe_tasks",
    "get_task",
    "load_task",
    "register_task",
    "task_from_pairs",
    "task_names",
]
