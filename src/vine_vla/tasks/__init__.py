"""Simulated tasks with scripted operators; each is a folder, and none is imported before it is asked for.

`vine_vla.tasks.gym` registers them with gymnasium.
"""

from vine_vla.tasks.base import Task
from vine_vla.tasks.registry import find_task, task_names

__all__ = ["Task", "find_task", "task_names"]
