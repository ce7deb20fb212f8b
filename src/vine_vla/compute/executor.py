"""The boundary to machines: jobs are handed to workers, answers come back as they are ready.

`LocalExecutor` runs processes on this machine. Another executor (a cluster's) satisfies the same protocol and
is registered by an entry point of the group `vine.executors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from vine_vla.compute.workers import map_jobs

type Worker[Job, Answer] = Callable[[Job], Answer]
"""Answers one job; holds what is expensive to make (a simulator, networks)."""


class Executor(Protocol):
    """Runs jobs somewhere. Only the driver writes files that are shared; workers return units of work."""

    @property
    def workers(self) -> int:
        """How many jobs run at the same time; 0: none but the driver's own process."""
        ...

    def map[Job, Answer](
        self, factory: Callable[[], Worker[Job, Answer]], jobs: Sequence[Job]
    ) -> Iterator[Answer]:
        """Answers to `jobs`, in the order in which they are ready.

        Args:
            factory: makes a worker, once a process; must be picklable.
            jobs: picklable.

        Raises:
            Whatever a worker raises; jobs that have not begun are dropped then.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Processes on this machine, one thread each.

    Args:
        workers: processes; 0 answers in this one.
    """

    workers: int = 2

    def map[Job, Answer](
        self, factory: Callable[[], Worker[Job, Answer]], jobs: Sequence[Job]
    ) -> Iterator[Answer]:
        """As `Executor.map`. None of the processes outlives this one."""
        yield from map_jobs(factory, jobs, self.workers)  # type: ignore[arg-type, misc]
