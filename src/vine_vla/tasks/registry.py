"""The registry of tasks: those of this package, and those that installed packages bring by an entry point.

Another package registers a task with an entry point of the group `vine.tasks` whose value is its `Task`:

    [project.entry-points."vine.tasks"]
    shelf = "my_package.shelf:TASK"
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from vine_vla.core.errors import VineError
from vine_vla.tasks.base import Task

GROUP = "vine.tasks"
BUILT_IN = {"line": "vine_vla.tasks.line", "plug": "vine_vla.tasks.plug"}
"""Name -> module with a `TASK`; imported when asked for; it imports its simulator when it opens one."""

DEFAULT_TASK = "plug"
"""Task of commands that name none."""


def task_names() -> tuple[str, ...]:
    """Names of all tasks, this package's first; nothing is imported."""
    return (*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILT_IN)))


def installed_tasks() -> list[Task]:
    """All tasks. One that cannot be loaded is left out with a warning: it must not take others with it."""
    found = []
    for name in task_names():
        try:
            found.append(find_task(name))
        except VineError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


@cache
def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        VineError: there is none, or the package that brings it does not work.
    """
    if name in BUILT_IN:
        found = import_module(BUILT_IN[name]).TASK
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            raise VineError(f"unknown task {name!r}", hint=f"known tasks: {', '.join(task_names())}")
        try:
            found = points[0].load()
        except Exception as error:  # somebody else's package: whatever it raises is bad input to us
            raise VineError(
                f"task {name!r} cannot be loaded: {type(error).__name__}: {error}", where=points[0].value
            ) from error
    if not isinstance(found, Task) or found.name != name:
        raise VineError(f"the task {name!r} is no `Task` of that name", hint="see vine_vla.tasks.base")
    return found
