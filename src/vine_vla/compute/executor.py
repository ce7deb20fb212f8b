"""The boundary to machines: jobs are handed to workers, answers come back as they are ready.

Only the driver writes files that are shared; workers return units of work. A file of a worker's own (a staged
episode, a trace under the name of its episode), written atomically, is a unit of work too: it needs not
travel through the driver, and a job that is repeated writes the same bytes.

`LocalExecutor` runs processes on this machine. Another executor (a cluster's) satisfies the same protocol and
is registered by an entry point of the group `vine.executors`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from vine_vla.compute.process import Child

type Worker[Job, Answer] = Callable[[Job], Answer]
"""Answers one job; holds what is expensive to make (a simulator, networks)."""

READY = "ready"
"""A worker's first message: it is made, and takes jobs."""
EXIT_SECONDS = 10.0
"""Time for an idle worker to free what it holds."""


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
    """Processes on this machine, one thread each, none of which outlives this one.

    Args:
        workers: processes; 0 answers in this one.
    """

    workers: int = 2

    def map[Job, Answer](
        self, factory: Callable[[], Worker[Job, Answer]], jobs: Sequence[Job]
    ) -> Iterator[Answer]:
        """As `Executor.map`.

        Ctrl-C while answers are awaited lets the running jobs end, hands out their answers, then raises
        KeyboardInterrupt; a second one ends them at once.
        """
        if self.workers and jobs:
            yield from _map_processes(factory, jobs, min(self.workers, len(jobs)))
        elif jobs:
            worker = factory()
            for job in jobs:
                yield worker(job)


def _map_processes(factory: Callable[[], Any], jobs: Sequence[Any], count: int) -> Iterator[Any]:
    waiting, interrupted = list(reversed(jobs)), False
    children: dict[Any, Child] = {}
    idle = []
    try:
        for number in range(count):
            child = Child(partial(_work, factory), name=f"worker {number}")
            children[child.connection] = child
        starting = set(children)
        while children:
            try:
                ready = wait(list(children))
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                for connection in starting:
                    children.pop(connection).stop()
                if children:
                    text = "finishing the jobs under way; Ctrl-C again ends them at once"
                    sys.stderr.write(f"vine: {text}\n")
                continue
            for connection in ready:
                child = children[connection]
                answer = child.receive()
                if waiting and not interrupted:
                    child.connection.send(waiting.pop())
                else:
                    child.connection.close()
                    idle.append(children.pop(connection))
                if connection in starting:
                    starting.discard(connection)
                else:
                    yield answer
        if interrupted:
            raise KeyboardInterrupt
    finally:
        for child in children.values():
            child.stop()
        for child in idle:
            child.stop(EXIT_SECONDS)


def _work(factory: Callable[[], Worker[Any, Any]], connection: Connection) -> None:
    """A worker's life: made once, then a job, an answer, until the connection is closed."""
    worker = factory()
    connection.send(READY)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(worker(job))
