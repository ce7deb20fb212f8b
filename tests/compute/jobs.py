"""Workers for the executor's tests: importable by their own processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from vine_vla.core.errors import VineError


@dataclass
class Worker:
    """Answers a number with its square.

    Args:
        folder: each worker writes its process id here, and the numbers that it has begun and ended.
        seconds: a job takes.
        bad: the number that fails.
    """

    folder: Path
    seconds: float = 0.0
    bad: int | None = None

    def __post_init__(self) -> None:
        (self.folder / f"pid-{os.getpid()}").touch()

    def __call__(self, number: int) -> int:
        (self.folder / f"begun-{number}").touch()
        if number == self.bad:
            raise VineError("a bad number", where=str(number), hint="give another")
        time.sleep(self.seconds)
        (self.folder / f"ended-{number}").touch()
        return number**2


def threads(_: int) -> tuple[str, int]:
    """Threads in the environment, and of torch."""
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def make_threads():
    return threads


class OwnError(Exception):
    """An error that cannot be pickled as it is."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail(_: int) -> None:
    raise OwnError(1, 2)


def make_fail():
    return fail


def vanish(_: int) -> None:
    os.kill(os.getpid(), 9)


def make_vanish():
    return vanish


def refuse():
    raise VineError("no such run directory", where="runs/x")
