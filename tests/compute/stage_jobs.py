"""What the stages of the tests do: importable by processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

from vine_vla.compute.executor import LocalExecutor
from vine_vla.compute.progress import progress_bars
from vine_vla.compute.stages import Share
from vine_vla.core.errors import VineError


def write(root: Path, name: str, text: str, reads: tuple[str, ...], share: Share) -> None:
    """Write the file `name`: `text` and what the files `reads` hold; note that it was done."""
    with (root / "done.txt").open("a") as file:
        file.write(f"{name} {share.threads} {os.getpid()}\n")
    (root / name).write_text("+".join([text, *((root / other).read_text() for other in reads)]))


def meet(root: Path, own: str, other: str, share: Share) -> None:
    """Wait until the stage `other` runs at the same time."""
    (root / own).write_text(str(share.threads))
    deadline = time.monotonic() + 60
    while not (root / other).exists():
        if time.monotonic() > deadline:
            raise VineError(f"{other} has not begun")
        time.sleep(0.02)


def sleep(root: Path, name: str, share: Share) -> None:
    """Sleep, reporting; the file `name` says that it has begun."""
    (root / name).write_text(str(os.getpid()))
    with progress_bars() as report:
        for step in range(1000):
            report("sleeping", step, 1000)
            time.sleep(0.1)


def refuse(root: Path, awaited: str, share: Share) -> None:
    """Fail as soon as the file `awaited` is there."""
    while not (root / awaited).exists():
        time.sleep(0.02)
    raise VineError("no such dataset", where="demos", hint="collect it")


def crash(share: Share) -> None:
    raise ZeroDivisionError("a bug")


def nothing(share: Share) -> None:
    pass


def square(number: int) -> int:
    return number**2


def make_square():
    return square


def pooled(root: Path, share: Share) -> None:
    """A stage with workers of its own."""
    answers = sorted(LocalExecutor(share.workers).map(make_square, range(4)))
    (root / "squares").write_text(str(answers))
