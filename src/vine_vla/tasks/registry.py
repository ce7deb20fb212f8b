"""The registry of tasks.

Another package registers a task with an entry point of the group `vine.tasks` whose value is its `Task`:

    [project.entry-points."vine.tasks"]
    shelf = "my_package.shelf:TASK"
"""

from __future__ import annotations

import warnings

from vine_vla.core.errors import VineError
from vine_vla.core.registry import Registry
from vine_vla.tasks.base import Task

TASKS = Registry("task", Task, "vine.tasks", {"line": "vine_vla.tasks.line", "plug": "vine_vla.tasks.plug"})

task_names, find_task = TASKS.names, TASKS.find

DEFAULT_TASK = "plug"
"""Task of commands that name none."""
QUICK_TASK = "line"
"""Task of `vine quickstart`, which runs its experiment `TASK-quick`."""


def installed_tasks() -> list[Task]:
    """All tasks. One that cannot be loaded is left out with a warning: it must not take others with it."""
    found = []
    for name in task_names():
        try:
            found.append(find_task(name))
        except VineError as error:
            warnings.warn(str(error), stacklevel=2)
    return found
