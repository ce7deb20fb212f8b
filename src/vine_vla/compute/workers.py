"""Worker processes: each makes its own worker once and answers jobs; none outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Worker = Callable[[Any], dict[str, Any]]
"""Answers one job; holds what is expensive to make (a simulator, networks)."""

_worker: Worker | None = None


def map_jobs(make: Callable[[], Worker], jobs: Sequence[Any], workers: int) -> Iterator[dict[str, Any]]:
    """Answers to `jobs`, in the order in which they are ready.

    Args:
        make: makes a worker; must be picklable (a module's function, a `functools.partial` of one).
        jobs: picklable.
        workers: processes; 0 answers in this one.
    """
    if workers == 0 or len(jobs) < 2:
        worker = make() if jobs else None
        for job in jobs:
            assert worker is not None
            yield worker(job)
        return
    # `spawn`: a forked process would inherit the parent's graphics context and threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_initialise, initargs=(make,))
    try:
        for future in as_completed([pool.submit(_answer, job) for job in jobs]):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _initialise(make: Callable[[], Worker]) -> None:
    global _worker
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    _worker = make()


def _answer(job: Any) -> dict[str, Any]:
    assert _worker is not None
    return _worker(job)


def run_beside(jobs: Mapping[str, Callable[[], None]], logs: Mapping[str, Path]) -> None:
    """Run picklable `jobs`, each in a process of its own; what one of them raises is raised.

    Args:
        logs: where a job's output goes; that of one without an entry comes out here.
    """
    with ProcessPoolExecutor(len(jobs), get_context("spawn"), initializer=_die_with_parent) as pool:
        futures = [pool.submit(_run_logged, job, logs.get(name)) for name, job in jobs.items()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            raise


def _run_logged(job: Callable[[], None], log: Path | None) -> None:
    if log is None:
        return job()
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        return job()


def _die_with_parent() -> None:
    """Ask the kernel (Linux) to end this process when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


def show_progress(
    entries: Iterable[dict[str, Any]], *, name: str, total: int, done: int, show: bool
) -> Iterator[dict[str, Any]]:
    """Pass `entries` on with a progress bar on stderr; `done` of `total` were there before."""
    if not show:
        yield from entries
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=done)
        for entry in entries:
            bar.advance(task)
            yield entry


@contextmanager
def stage_progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr for every stage that reports (name, share done in [0, 1])."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def report(stage: str, share: float) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=1.0)
            progress.update(bars[stage], completed=share)

        yield report
