"""Writing sidecars as one transaction: whoever reads finds the old set or the new set, never a mixture.

The new files are written and read back in a hidden folder of `meta/`. One rename makes that folder
`meta/.vine.next`: this is the commit. Its files are then moved to their places one by one and it is removed.

Why a kill at any moment leaves one whole set: readers take a file from `.vine.next` where it has one, else
from `meta/`. Before the commit there is no such folder, so they find the old set. After it, every new file is
in one of the two places and shadows the old one wherever it is, so they find the new set however many files
were moved. The next writer finishes the move before it does anything else. Writers exclude each other by a
lock on `meta/` itself, which ends with its process and leaves no file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vine_vla.core.errors import VineError

META = "meta"
NEXT = ".vine.next"
RETRIES = 20
Stamp = tuple[tuple[str, int, int, int] | None, ...]


def current(root: Path, name: str) -> Path:
    """Where sidecar `name` (`meta/vine.json`) of the dataset `root` is to be read; it need not exist."""
    pending = root / META / NEXT / Path(name).name
    return pending if pending.is_file() else root / name


def stamp(root: Path, names: tuple[str, ...]) -> Stamp:
    """What tells two versions of the sidecars apart: each file is replaced as a whole, by a new one."""
    found = []
    for name in names:
        path = current(root, name)
        try:
            s = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((path.parent.name, s.st_ino, s.st_mtime_ns, s.st_size))
    return tuple(found)


def read_steadily[T](root: Path, names: tuple[str, ...], read: Callable[[], T]) -> T:
    """What `read` finds in the sidecars of one moment; reads again if a writer came in between."""
    for _ in range(RETRIES):
        before = stamp(root, names)
        try:
            found = read()
        except VineError:
            if stamp(root, names) == before:
                raise
        else:
            if stamp(root, names) == before:
                return found
    return read()


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other writers of `root`'s sidecars out; held from reading to committing, so that none is undone.

    Raises:
        VineError: `root` has no `meta/`, or it cannot be written.
    """
    with writing(root / META):
        folder = os.open(root / META, os.O_RDONLY)
    try:
        with writing(root / META):
            fcntl.flock(folder, fcntl.LOCK_EX)
            _finish(root / META)
        yield
    finally:
        os.close(folder)


def commit(
    root: Path, names: tuple[str, ...], write: Callable[[Path], object], check: Callable[[Path], object]
) -> None:
    """Replace sidecars of `root`, all or none; the caller holds `locked(root)`.

    Args:
        root: dataset folder.
        names: all sidecars that there may be, relative to it.
        write: is given a folder and writes some of them into its `meta/`.
        check: is given the folder with the whole new set and reads it as readers do.

    Raises:
        VineError: what `check` says, or the disk refuses; nothing has changed then.
    """
    meta = root / META
    folder = meta / f".vine.{os.getpid()}.tmp"
    with writing(meta):
        _finish(meta)
        try:
            (folder / META).mkdir(parents=True)
            write(folder)
            kept = [n for n in names if not (folder / n).exists() and current(root, n).is_file()]
            for name in kept:
                (folder / name).symlink_to(current(root, name).resolve())
            try:
                check(folder)
            except VineError as error:
                where = error.where.replace(str(folder), str(root))
                raise VineError(error.what, where=where, hint=error.hint) from error
            for name in kept:
                (folder / name).unlink()
            for file in (folder / META).iterdir():
                _to_disk(file)
            _to_disk(folder / META)
            os.replace(folder / META, meta / NEXT)
            _to_disk(meta)
            _finish(meta)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _finish(meta: Path) -> None:
    """Move what was committed to its place, and remove what a dead writer left before it came to that."""
    for leftover in meta.glob(".vine.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    if (meta / NEXT).is_dir():
        for file in sorted((meta / NEXT).iterdir()):
            os.replace(file, meta / file.name)
        (meta / NEXT).rmdir()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk says against writing `path` into one line."""
    try:
        yield
    except OSError as error:
        raise VineError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint="make room or choose a folder that you may write, by --out",
        ) from error
