"""Progress of long work on stderr: bars in a terminal, plain lines elsewhere, with the expected end.

A process that runs a stage beside others hands its progress on to the driver, which shows all of it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

LINE_SECONDS = 10.0
"""How often a plain line is written for the same work."""


FEW = 10
"""Of fewer cases no figure is printed."""


def too_few(n: int) -> str:
    """What is printed in place of a figure of `n` cases."""
    return f"too few (n = {n})"


class Report(Protocol):
    """Called as work goes on."""

    def __call__(self, name: str, done: float, total: float = 1.0) -> None:
        """`done` of `total` steps of the work `name`; without `total` a share in [0, 1]."""
        ...


@dataclass
class Pace:
    """How fast a piece of work is, from what was done since it was first heard of.

    Args:
        first: steps done when `started`, which may be work of an earlier run.
    """

    first: float
    started: float = field(default_factory=time.monotonic)

    def describe(self, done: float, total: float) -> str:
        """`120 of 900, 0:41 left, ends 15:12`."""
        text = f"{done:.0f} of {total:.0f}" if total != 1 else f"{done:.0%}"
        elapsed = time.monotonic() - self.started
        if done >= total:
            return f"{text}, took {clock(elapsed)}"
        if done <= self.first or elapsed < 1:
            return text
        left = elapsed * (total - done) / (done - self.first)
        end = time.strftime("%H:%M", time.localtime(time.time() + left))
        return f"{text}, {clock(left)} left, ends {end}"


def clock(seconds: float) -> str:
    """`0:41`, `2:03:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_forwarded: Report | None = None


@contextmanager
def forwarding(report: Report) -> Iterator[None]:
    """Hand all progress of this process to `report` while the block runs."""
    global _forwarded
    before, _forwarded = _forwarded, report
    try:
        yield
    finally:
        _forwarded = before


@contextmanager
def progress_bars(show: bool = True) -> Iterator[Report]:
    """A bar, or lines, for every piece of work that reports while the block runs."""
    if not show:
        yield lambda name, done, total=1.0: None
    elif _forwarded is not None:
        yield _forwarded
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield _lines()


def track[T](items: Iterable[T], *, name: str, total: int, done: int = 0, show: bool = True) -> Iterator[T]:
    """Pass `items` on and show their progress; `done` of `total` were there before."""
    with progress_bars(show) as report:
        report(name, done, total)
        for count, item in enumerate(items, done + 1):
            report(name, count, total)
            yield item


@contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    tasks: dict[str, tuple[TaskID, Pace]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def report(name: str, done: float, total: float = 1.0) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, state=""), Pace(done)
            task, pace = tasks[name]
            progress.update(task, completed=done, total=total, state=pace.describe(done, total))

        yield report


def _lines() -> Report:
    known: dict[str, tuple[Pace, float]] = {}

    def report(name: str, done: float, total: float = 1.0) -> None:
        pace, last = known.get(name, (Pace(done), -math.inf))
        now = time.monotonic()
        if now - last >= LINE_SECONDS or done >= total:
            print(f"{name}: {pace.describe(done, total)}", file=sys.stderr, flush=True)  # noqa: T201
            last = now
        known[name] = pace, last

    return report
