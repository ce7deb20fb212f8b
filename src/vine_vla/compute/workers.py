"""Callables that run beside each other, each in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path


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
